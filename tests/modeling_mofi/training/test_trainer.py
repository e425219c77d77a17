"""Whole training runs: resumed to the bit, the same on one and two processes, never a half-written state."""

import functools
import pickle
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import train_runs
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

from modeling_mofi.training.checkpoint import last_complete_checkpoint


def start(recipe, output_dir, *flags, processes=1, **settings):
    """Runs the training command in new processes; returns each one's losses and positions, or its exit code."""
    flags = [f"--per_device_train_batch_size={4 // processes}", *flags]
    return run_processes(run, processes, [recipe, f"--output_dir={output_dir}", *flags], settings)


def run(arguments, settings):
    return train_runs.run(arguments, **settings)


def assert_same_tensors(folder, other):
    tensors, others = train_runs.saved_tensors(folder), train_runs.saved_tensors(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Twenty steps of four images; an epoch of 24 images has six, so step 10 is in the middle of the second."""
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    dataset = str(write_i2e(folder / "i2e"))
    return train_runs.write_recipe(
        folder, dataset=dataset, tokenizer_name=str(folder / "processor"), max_steps=20, save_steps=5, ema_decay=0.9
    )


@pytest.fixture(scope="module")
def whole_runs(recipe, tmp_path_factory):
    """Folder of an uninterrupted run on a number of processes, and what the first of them returned."""

    @functools.cache
    def run_on(processes):
        folder = tmp_path_factory.mktemp("whole")
        return folder, start(recipe, folder, processes=processes)[0]

    return run_on


@pytest.fixture(scope="module")
def whole(whole_runs):
    return whole_runs(1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_killed_twice_is_the_uninterrupted_run_to_the_bit(recipe, whole, tmp_path, num_workers):
    whole_folder, expected = whole
    workers = f"--dataloader_num_workers={num_workers}"
    assert start(recipe, tmp_path, workers, kill_at_step=12) == [-signal.SIGKILL]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"
    assert start(recipe, tmp_path, workers, kill_at_step=16) == [-signal.SIGKILL]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-15"
    (rest,) = start(recipe, tmp_path, workers)
    assert rest["losses"] == expected["losses"]
    assert_same_tensors(tmp_path / "checkpoint-20", whole_folder / "checkpoint-20")
    # Without workers the positions are known here: those after step 15, none twice, none left out.
    seen = len(rest["positions"])
    assert (seen >= 20) == (num_workers == 0)
    assert rest["positions"] == expected["positions"][len(expected["positions"]) - seen :]


def test_every_image_is_seen_once_in_an_epoch(whole):
    epochs = [whole[1]["positions"][24 * epoch :][:24] for epoch in range(3)]
    for epoch, positions in enumerate(epochs):
        assert sorted(positions) == list(range(24 * epoch, 24 * (epoch + 1)))
    assert [position - 24 for position in epochs[1]] != epochs[0]


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_killed_in_mid_epoch_give_the_losses_of_one(recipe, whole, tmp_path, num_processes):
    flags = ["--max_steps=20", "--save_steps=8"]
    killed = start(recipe, tmp_path, *flags, processes=num_processes, kill_at_step=9)
    assert all(code < 0 for code in killed)
    results = start(recipe, tmp_path, *flags, processes=num_processes)
    expected = whole[1]
    assert results[0]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    # Step by step the same images, whoever has them.
    by_step = list(zip(*(batches(result["positions"], 4 // num_processes) for result in results), strict=True))
    steps = [sorted(sum(shares, start=[])) for shares in by_step]
    assert steps == [sorted(batch) for batch in batches(expected["positions"], 4)[-len(steps) :]]


def batches(positions, size):
    return [positions[start : start + size] for start in range(0, len(positions), size)]


WRITING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def watch_checkpoints(arguments):
    """Trains, and notes at each step of the file system the last complete checkpoint, which must be readable."""
    output_dir = Path(arguments[1].split("=")[1])
    complete = []

    def note(event, details):
        if event in WRITING and (event != "open" or "w" in str(details[1])):
            checkpoint = last_complete_checkpoint(output_dir)
            complete.append(checkpoint and (checkpoint.name, len(train_runs.saved_tensors(checkpoint))))

    train_runs.announce_tensor_files()
    sys.addaudithook(note)
    train_runs.run(arguments)
    return complete


def test_a_complete_checkpoint_is_there_at_every_step_of_the_file_system(recipe, whole, tmp_path):
    arguments = [recipe, f"--output_dir={tmp_path}", "--max_steps=15", "--save_total_limit=1"]
    (complete,) = run_processes(watch_checkpoints, 1, arguments)
    num_tensors = len(train_runs.saved_tensors(whole[0] / "checkpoint-5"))
    expected = [None, *((f"checkpoint-{step}", num_tensors) for step in (5, 10, 15))]
    assert list(dict.fromkeys(complete)) == expected
    assert all(complete.count(checkpoint) > 30 for checkpoint in expected)
    assert complete == sorted(complete, key=expected.index)


def test_a_checkpoint_that_is_written_again_is_incomplete_until_it_is_whole(recipe, tmp_path):
    arguments = [recipe, f"--output_dir={tmp_path}", "--max_steps=10"]
    run_processes(train_runs.run, 1, arguments)
    (tmp_path / "trainer_state.json").unlink()  # It says that the run is at its end.
    again = [*arguments, f"--resume_from_checkpoint={tmp_path / 'checkpoint-5'}"]
    (complete,) = run_processes(watch_checkpoints, 1, again)
    names = [name for name, _ in complete]
    assert list(dict.fromkeys(zip(names, [None, *names], strict=False))) == [
        ("checkpoint-10", None),
        ("checkpoint-10", "checkpoint-10"),
        ("checkpoint-5", "checkpoint-10"),
        ("checkpoint-5", "checkpoint-5"),
        ("checkpoint-10", "checkpoint-5"),
    ]
    assert names.count("checkpoint-5") > 30


def run_on_full_disk(arguments, num_bytes):
    """Trains while no file may grow beyond some bytes; says what it died of, and how it went on with room again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        train_runs.run(arguments)
    except (OSError, SystemExit) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return str(error), last_complete_checkpoint(arguments[1].split("=")[1]), train_runs.run(arguments)


def test_a_full_disk_names_the_checkpoint_and_the_next_run_trains_on(recipe, whole, tmp_path):
    whole_folder, expected = whole
    arguments = [recipe, f"--output_dir={tmp_path}"]
    ((message, complete, again),) = run_processes(run_on_full_disk, 1, arguments, 4000)
    assert f"cannot write {tmp_path / 'checkpoint-5'}" in message
    assert complete is None
    assert again["losses"] == expected["losses"]


# By number of processes. The second process's files are those of which the first knows nothing.
CUT_FILES = [
    (1, "model.safetensors"),
    (1, "trained_towers.safetensors"),
    (1, "entity_head.safetensors"),
    (1, "optimizer.safetensors"),
    (1, "scheduler.json"),
    (1, "trainer_state.json"),
    (2, "entity_head_optimizer-00002-of-00002.safetensors"),
    (2, "rng_state_1.json"),
]


@pytest.mark.parametrize(("processes", "file"), CUT_FILES)
def test_a_checkpoint_cut_off_in_any_file_is_ignored_and_made_again(recipe, whole_runs, tmp_path, processes, file):
    whole_folder, expected = whole_runs(processes)
    shutil.copytree(whole_folder / "checkpoint-5", tmp_path / "checkpoint-5")
    path, size = tmp_path / "checkpoint-10" / file, (whole_folder / "checkpoint-10" / file).stat().st_size
    flags = {"processes": processes, "cut_file": (str(path), size // 2)}
    if processes == 1:
        assert start(recipe, tmp_path, **flags) == [-signal.SIGXFSZ]
    else:
        with pytest.raises(AssertionError, match="Connection (closed|reset) by peer"):
            start(recipe, tmp_path, **flags)
    # A file gets its name when it is whole; transformers alone writes the trainer's state in place.
    assert path.stat().st_size == size // 2 if file == "trainer_state.json" else not path.exists()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-5"
    assert start(recipe, tmp_path, processes=processes)[0]["losses"] == expected["losses"]
    assert_same_tensors(tmp_path / "checkpoint-20", whole_folder / "checkpoint-20")
    assert not list(tmp_path.rglob("*.tmp.*"))


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_pickled_and_no_planted_pickle_is_opened(recipe, whole, tmp_path):
    assert start(recipe, tmp_path, kill_at_step=7) == [-signal.SIGKILL]
    checkpoint = tmp_path / "checkpoint-5"
    assert {path.suffix for path in checkpoint.iterdir()} <= {".safetensors", ".json", ".py", ".parquet"}
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "training_args.bin",
        "pytorch_model.bin",
    ):
        (checkpoint / name).write_bytes(pickle.dumps(Exploit(tmp_path / "exploited")))
    (rest,) = start(recipe, tmp_path, "--max_steps=20")
    assert not (tmp_path / "exploited").exists()
    assert rest["losses"] == whole[1]["losses"]


def test_accumulation_says_that_it_adds_no_negatives(recipe, tmp_path, caplog):
    (messages,) = run_processes(
        logged, 1, [recipe, f"--output_dir={tmp_path}", "--gradient_accumulation_steps=2", "--max_steps=2"]
    )
    assert "averages the gradients of 2 batches of 4 images; it adds no negatives" in messages


def logged(arguments):
    """Trains, and returns every message of the package's loggers."""
    import logging

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("modeling_mofi").addHandler(handler)
    train_runs.run(arguments)
    return "\n".join(records)


def test_a_checkpoint_that_is_none_is_refused(recipe, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(AssertionError, match="has no complete trainer_state.json"):
        start(recipe, tmp_path / "run", f"--resume_from_checkpoint={tmp_path / 'checkpoint-5'}")
