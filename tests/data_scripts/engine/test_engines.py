import errno
import json
import os
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch  # noqa: F401 - an engine asks for GPUs only where PyTorch is in use

from data_scripts.engine.engines import Engine, run_phase
from data_scripts.engine.shards import (
    Phase,
    Step,
    group_shards,
    read_manifest,
    rebatch,
    run_group,
    single_shards,
    sum_manifests,
)
from data_scripts.schema import Shard


SHARDS = [Shard(index, "test", f"source-{index}") for index in range(4)]
GROUPS = single_shards(SHARDS)


def read_numbers(shard):
    yield {"number": [10 * shard.index + i for i in range(3)], "note": [None, "odd", None]}
    yield {"number": [10 * shard.index + i for i in range(3, 5)], "note": [None, None]}


def drop_threes(batch):
    batch["drop_reason"] = ["a three" if number % 10 == 3 else None for number in batch["number"]]
    return batch


def fail_on_shard_two(batch):
    if batch["number"][0] == 20:
        raise ValueError("shard two is bad")
    return batch


def make_phase(folder, *steps):
    steps = steps or (Step("drop_threes", drop_threes),)
    return Phase("numbers", folder, read_numbers, steps, pa.schema({"number": pa.int64()}), "hash")


def read_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_has_its_rows_and_a_manifest_with_counts(tmp_path):
    phase = make_phase(tmp_path)
    run_group(phase, SHARDS[1:2])
    assert pq.read_table(tmp_path / "000001.parquet")["number"].to_pylist() == [10, 11, 12, 14]
    manifest = json.loads((tmp_path / "000001.json").read_text())
    assert manifest["stages"] == {"drop_threes": {"rows_in": 5, "rows_out": 4, "dropped": {"a three": 1}}}
    assert manifest["notes"] == {"odd": 1}


def test_counts_add_up_over_shards(tmp_path):
    phase = make_phase(tmp_path)
    run_phase(phase, GROUPS, engine=Engine())
    totals = sum_manifests(phase, SHARDS)
    assert totals["stages"] == {"drop_threes": {"rows_in": 20, "rows_out": 16, "dropped": {"a three": 4}}}


def test_processes_write_the_bytes_of_one(tmp_path):
    run_phase(make_phase(tmp_path / "one"), GROUPS, engine=Engine())
    with Engine(num_processes=3) as engine:
        run_phase(make_phase(tmp_path / "many"), GROUPS, engine=engine)
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "many")


def test_shards_that_are_done_are_not_run_again(tmp_path):
    phase = make_phase(tmp_path)
    run_phase(phase, GROUPS, engine=Engine())
    times = [phase.data_path(shard.index).stat().st_mtime_ns for shard in SHARDS]
    run_phase(phase, GROUPS, engine=Engine())
    assert [phase.data_path(shard.index).stat().st_mtime_ns for shard in SHARDS] == times


def damage_manifest_cut(phase):
    path = phase.manifest_path(0)
    path.write_text(path.read_text()[:40])


def damage_data_cut(phase):
    path = phase.data_path(0)
    path.write_bytes(path.read_bytes()[:40])


def damage_data_gone(phase):
    phase.data_path(0).unlink()


def damage_other_settings(phase):
    path = phase.manifest_path(0)
    path.write_text(path.read_text().replace('"hash"', '"other"'))


@pytest.mark.parametrize("damage", [damage_manifest_cut, damage_data_cut, damage_data_gone, damage_other_settings])
def test_a_damaged_shard_is_done_again(damage, tmp_path):
    phase = make_phase(tmp_path)
    run_phase(phase, GROUPS, engine=Engine())
    before = read_bytes(tmp_path)
    damage(phase)
    assert read_manifest(phase, 0) is None
    run_phase(phase, GROUPS, engine=Engine())
    assert read_bytes(tmp_path) == before


@pytest.mark.timeout(30)
@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_in_a_shard_comes_out_and_the_other_shards_stay(num_processes, tmp_path):
    phase = make_phase(tmp_path, Step("fail", fail_on_shard_two))
    with Engine(num_processes=num_processes) as engine, pytest.raises(ValueError, match="shard two is bad"):
        run_phase(phase, GROUPS, engine=engine)
    assert read_manifest(phase, 2) is None
    assert not list(tmp_path.glob("000002*"))
    assert read_manifest(phase, 0) is not None


@pytest.mark.timeout(30)
def test_a_worker_that_dies_is_an_error_and_no_hang(tmp_path):
    phase = make_phase(tmp_path, Step("die", die_on_shard_two))
    with Engine(num_processes=2) as engine, pytest.raises(RuntimeError, match="a worker process died"):
        run_phase(phase, GROUPS, engine=engine)


def die_on_shard_two(batch):
    if batch["number"][0] == 20:
        os._exit(9)
    return batch


def test_a_full_disk_names_the_path_and_leaves_no_manifest(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    phase = make_phase(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match=r"cannot write .*000000\.parquet: No space left"):
            run_phase(phase, GROUPS, engine=Engine())
    assert read_bytes(tmp_path) == {}
    run_phase(phase, GROUPS, engine=Engine())
    assert len(read_bytes(tmp_path)) == 8


def test_batches_are_joined_and_cut():
    batches = [{"a": [1, 2]}, {"a": []}, {"a": [3, 4, 5]}]
    assert [batch["a"] for batch in rebatch(batches, 2)] == [[1, 2], [3, 4], [5]]


def test_a_shard_without_rows_is_done(tmp_path):
    phase = make_phase(tmp_path, Step("drop", drop_all))
    run_phase(phase, single_shards(SHARDS[:1]), engine=Engine())
    assert pq.read_table(phase.data_path(0)).num_rows == 0
    assert read_manifest(phase, 0)["stages"]["drop"]["rows_out"] == 0


def drop_all(batch):
    batch["drop_reason"] = ["all"] * len(batch["number"])
    return batch


def add_first(batch):
    """What comes out tells which rows were in a batch together."""
    batch["number"] = [1000 * batch["number"][0] + number for number in batch["number"]]
    return batch


def grouping_phase(folder, *, before=(), lookahead=0):
    steps = (*before, Step("drop_threes", drop_threes), Step("add_first", add_first, 5, lookahead))
    return make_phase(folder, *steps)


def read_output(phase):
    return [pq.read_table(phase.data_path(shard.index))["number"].to_pylist() for shard in SHARDS]


@pytest.mark.parametrize("lookahead", [0, 2])
def test_batches_go_on_from_one_shard_of_a_group_into_the_next(lookahead, tmp_path):
    phase = grouping_phase(tmp_path, lookahead=lookahead)
    run_phase(phase, [tuple(SHARDS)], engine=Engine())
    assert read_output(phase) == [
        [0, 1, 2, 4],
        [10, 11011, 11012, 11014],
        [11020, 11021, 22022, 22024],
        [22030, 22031, 22032, 34034],
    ]
    totals = sum_manifests(phase, SHARDS)["stages"]
    assert totals["drop_threes"] == {"rows_in": 20, "rows_out": 16, "dropped": {"a three": 4}}
    assert read_manifest(phase, 2)["stages"]["add_first"] == {"rows_in": 4, "rows_out": 4, "dropped": {}}
    assert [read_manifest(phase, shard.index)["notes"] for shard in SHARDS] == [{"odd": 1}] * 4


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_group_that_was_interrupted_meets_the_same_batches_again(lookahead, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_phase(grouping_phase(whole), [tuple(SHARDS)], engine=Engine())
    failing = grouping_phase(stopped, before=(Step("fail", fail_on_shard_two),), lookahead=lookahead)
    with pytest.raises(ValueError, match="shard two is bad"):
        run_phase(failing, [tuple(SHARDS)], engine=Engine())
    assert read_manifest(failing, 2) is None
    run_phase(grouping_phase(stopped), [tuple(SHARDS)], engine=Engine())
    assert read_bytes(stopped) == read_bytes(whole)


def drop_shard(batch, *, tens):
    batch["drop_reason"] = ["dropped" if number // 10 in tens else None for number in batch["number"]]
    return batch


@pytest.mark.parametrize("tens", [(0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_a_shard_of_a_group_that_is_left_with_nothing_is_done(tens, tmp_path):
    phase = make_phase(tmp_path, Step("drop", partial(drop_shard, tens=tens)), Step("keep", list_numbers, 3))
    run_phase(phase, [tuple(SHARDS)], engine=Engine())
    left = [[] if index in tens else [10 * index + i for i in range(5)] for index in range(4)]
    assert read_output(phase) == left
    for shard in SHARDS:
        dropped = {"dropped": 5} if shard.index in tens else {}
        assert read_manifest(phase, shard.index)["stages"]["drop"]["dropped"] == dropped


def list_numbers(batch):
    return batch


def test_small_shards_are_joined_and_large_ones_stand_alone(tmp_path):
    phase = make_phase(tmp_path)
    run_phase(phase, GROUPS, engine=Engine())  # Four rows of each shard are left.
    indices = {
        rows: [[shard.index for shard in group] for group in group_shards(SHARDS, before=phase, min_rows=rows)]
        for rows in (1, 4, 5, 12, 99)
    }
    assert indices[1] == indices[4] == [[0], [1], [2], [3]]
    assert indices[5] == [[0, 1], [2, 3]]
    assert indices[12] == [[0, 1, 2], [3]]
    assert indices[99] == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, 5), (2, 2), (8, 5)])
def test_workers_that_want_a_gpu_are_no_more_than_there_are(num_gpus, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    with Engine(num_processes=5) as engine:
        assert engine.pool(uses_gpu=True)._max_workers == expected
        assert engine.pool(uses_gpu=False)._max_workers == 5
