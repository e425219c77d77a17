"""Worker processes: what they are given, how they end, and what they leave."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch  # noqa: F401 - an engine asks for GPUs only where PyTorch is in use

from data_scripts.engine.engines import Engine, run_job
from data_scripts.engine.jobs import single
from data_scripts.engine.stages import Stages, Step, stages_job
from data_scripts.engine.workers import worker_index
from data_scripts.schema import Shard


SHARDS = [Shard(index, "test", f"source-{index}") for index in range(4)]
GROUPS = single(SHARDS)


def read_numbers(shard):
    yield {"number": [10 * shard.index + i for i in range(3)], "note": [None, "odd", None]}
    yield {"number": [10 * shard.index + i for i in range(3, 5)], "note": [None, None]}


def drop_threes(batch):
    batch["drop_reason"] = ["a three" if number % 10 == 3 else None for number in batch["number"]]
    return batch


def make_job(folder, *steps):
    steps = steps or (Step("drop_threes", drop_threes),)
    return stages_job("numbers", folder, "hash", Stages(read_numbers, steps, pa.schema({"number": pa.int64()})))


def test_a_worker_that_dies_is_named_with_its_shard_at_once(tmp_path):
    job = make_job(tmp_path, Step("die", die_on_shard_two))
    with Engine(num_processes=2) as engine:
        list(engine.run(abs, range(4)))  # Starts the workers.
        started = time.monotonic()
        with pytest.raises(ChildProcessError, match=r"worker at 000002 of numbers died \(SIGKILL\).*more memory"):
            run_job(job, GROUPS, engine=engine)
    # Noticed at once, not when all else is done; a busy machine takes its time to start.
    assert time.monotonic() - started < 60
    assert job.manifest(SHARDS[2]) is None


def die_on_shard_two(batch):
    if batch["number"][0] == 20:
        os.kill(os.getpid(), signal.SIGKILL)  # As the system does for want of memory.
    return batch


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, 5), (2, 2), (8, 5)])
def test_workers_that_want_a_gpu_are_no_more_than_there_are(num_gpus, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    with Engine(num_processes=5) as engine:
        assert len(engine.workers(uses_gpu=True).processes) == expected
        assert len(engine.workers(uses_gpu=False).processes) == 5


def signal_parent(batch, *, number, sent):
    """Shard one is at work when the run is told to stop; no later one ends before, however slowly a worker starts."""
    first = batch["number"][0]
    if first == 10:
        parent = multiprocessing.parent_process()
        os.kill(os.getpid() if parent is None else parent.pid, number)
        sent.touch()
        time.sleep(0.3)
    while first >= 20 and not sent.exists():
        time.sleep(0.01)
    return batch


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_signal_ends_a_run_when_the_shards_at_work_are_committed(num_processes, number, error, tmp_path):
    shards = [Shard(index, "test", "") for index in range(20)]
    sent = tmp_path / "sent"
    job = make_job(tmp_path / "job", Step("signal", partial(signal_parent, number=number, sent=sent)))
    before = signal.getsignal(number)
    with pytest.raises(error) as ended, Engine(num_processes=num_processes) as engine:  # noqa: PT012
        run_job(job, single(shards), engine=engine)
    if error is SystemExit:
        assert ended.value.code == 143
    done = [shard.index for shard in shards if job.manifest(shard)]
    assert 1 in done
    assert done == [0, 1] or (num_processes == 2 and len(done) < 20)
    assert signal.getsignal(number) == before
    assert not list(tmp_path.rglob("*.tmp.*"))


def raise_signals(number):
    signal.raise_signal(number)
    signal.raise_signal(number)


def test_a_second_signal_ends_at_once(tmp_path):
    with pytest.raises(SystemExit), Engine() as engine:
        assert list(engine.run(raise_signals, [signal.SIGTERM])) == []


def test_a_function_that_imports_torch_late_has_the_threads_that_are_asked_for():
    code = """
import os, sys
os.environ.pop("OMP_NUM_THREADS", None)
from data_scripts.engine.engines import run_limited

def num_threads(_):
    assert "torch" not in sys.modules
    return __import__("torch").get_num_threads()

assert run_limited(num_threads, None, num_threads=1) == 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def place_of_worker(number):
    time.sleep(0.2)  # The others shall have work too.
    return worker_index()


def test_workers_are_numbered_from_zero_in_every_pool():
    for num_processes in (3, 2):
        with Engine(num_processes=num_processes) as engine:
            assert set(engine.run(place_of_worker, range(30))) == set(range(num_processes))
    assert worker_index() == 0


class OddError(Exception):
    """Cannot be made again from its message alone."""

    def __init__(self, one, two):
        super().__init__(one + two)


def raise_odd_error(number):
    raise OddError("one ", "two")


def test_an_error_of_a_worker_keeps_its_words_and_where_it_came_from():
    with Engine(num_processes=2) as engine, pytest.raises(RuntimeError, match="OddError: one two") as caught:
        list(engine.run(raise_odd_error, range(3)))
    assert "in raise_odd_error" in str(caught.value.__cause__)


def test_items_are_taken_when_there_is_room_for_them():
    taken = []
    items = (taken.append(number) or number for number in range(9))
    with Engine(num_processes=2) as engine:
        results = engine.run(abs, items)
        first = next(results)
        assert len(taken) <= 3
        assert sorted([first, *results]) == list(range(9))


SLEEPER = """
import os, time
from pathlib import Path
from data_scripts.engine.engines import Engine

def sleep_long(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(50)

if __name__ == "__main__":
    list(Engine(num_processes=2).run(sleep_long, ["workers", "workers"]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_whatever_they_are_at(number, tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "workers").mkdir()
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen([sys.executable, "sleeper.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root})
    while len(workers := list((tmp_path / "workers").iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(Path("/proc", worker.name).exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker.name for worker in workers if Path("/proc", worker.name).exists()]
