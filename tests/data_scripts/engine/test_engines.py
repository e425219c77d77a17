import dataclasses
import errno
import json
import os
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_scripts.engine.engines import Engine, run_job, run_steps
from data_scripts.engine.job_array import JobArray
from data_scripts.engine.jobs import run_group, single
from data_scripts.engine.row_counts import sum_manifests
from data_scripts.engine.stages import Stages, Step, group_shards, rebatch, stages_job
from data_scripts.schema import Shard


SHARDS = [Shard(index, "test", f"source-{index}") for index in range(4)]
GROUPS = single(SHARDS)


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


def make_job(folder, *steps):
    steps = steps or (Step("drop_threes", drop_threes),)
    return stages_job("numbers", folder, "hash", Stages(read_numbers, steps, pa.schema({"number": pa.int64()})))


def read_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_has_its_rows_and_a_manifest_with_counts(tmp_path):
    job = make_job(tmp_path)
    run_group(job, SHARDS[1:2])
    assert pq.read_table(tmp_path / "000001.parquet")["number"].to_pylist() == [10, 11, 12, 14]
    manifest = json.loads((tmp_path / "000001.json").read_text())
    assert manifest["stages"] == {"drop_threes": {"rows_in": 5, "rows_out": 4, "dropped": {"a three": 1}}}
    assert manifest["notes"] == {"odd": 1}


def test_counts_add_up_over_shards(tmp_path):
    job = make_job(tmp_path)
    run_job(job, GROUPS, engine=Engine())
    totals = sum_manifests(job, SHARDS)
    assert totals.stages == {"drop_threes": {"rows_in": 20, "rows_out": 16, "dropped": {"a three": 4}}}


def test_processes_write_the_bytes_of_one(tmp_path):
    run_job(make_job(tmp_path / "one"), GROUPS, engine=Engine())
    with Engine(num_processes=3) as engine:
        run_job(make_job(tmp_path / "many"), GROUPS, engine=engine)
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "many")


def test_shards_that_are_done_are_not_run_again(tmp_path):
    job = make_job(tmp_path)
    run_job(job, GROUPS, engine=Engine())
    times = [job.path(shard).stat().st_mtime_ns for shard in SHARDS]
    run_job(job, GROUPS, engine=Engine())
    assert [job.path(shard).stat().st_mtime_ns for shard in SHARDS] == times


def damage_manifest_cut(job):
    path = job.manifest_path(SHARDS[0])
    path.write_text(path.read_text()[:40])


def damage_data_cut(job):
    path = job.path(SHARDS[0])
    path.write_bytes(path.read_bytes()[:40])


def damage_data_gone(job):
    job.path(SHARDS[0]).unlink()


def damage_other_settings(job):
    path = job.manifest_path(SHARDS[0])
    path.write_text(path.read_text().replace('"hash"', '"other"'))


@pytest.mark.parametrize("damage", [damage_manifest_cut, damage_data_cut, damage_data_gone, damage_other_settings])
def test_a_damaged_shard_is_done_again(damage, tmp_path):
    job = make_job(tmp_path)
    run_job(job, GROUPS, engine=Engine())
    before = read_bytes(tmp_path)
    damage(job)
    assert job.manifest(SHARDS[0]) is None
    run_job(job, GROUPS, engine=Engine())
    assert read_bytes(tmp_path) == before


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_in_a_shard_comes_out_and_the_other_shards_stay(num_processes, tmp_path):
    job = make_job(tmp_path, Step("fail", fail_on_shard_two))
    with Engine(num_processes=num_processes) as engine, pytest.raises(ValueError, match="shard two is bad"):
        run_job(job, GROUPS, engine=engine)
    assert job.manifest(SHARDS[2]) is None
    assert not list(tmp_path.glob("000002*"))
    assert job.manifest(SHARDS[0]) is not None


def test_a_full_disk_names_the_path_and_leaves_no_manifest(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job = make_job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match=r"cannot write .*000000\.parquet: No space left"):
            run_job(job, GROUPS, engine=Engine())
    assert read_bytes(tmp_path) == {}
    run_job(job, GROUPS, engine=Engine())
    assert len(read_bytes(tmp_path)) == 8


def test_batches_are_joined_and_cut():
    batches = [{"a": [1, 2]}, {"a": []}, {"a": [3, 4, 5]}]
    assert [batch["a"] for batch in rebatch(batches, 2)] == [[1, 2], [3, 4], [5]]


def test_a_shard_without_rows_is_done(tmp_path):
    job = make_job(tmp_path, Step("drop", drop_all))
    run_job(job, single(SHARDS[:1]), engine=Engine())
    assert pq.read_table(job.path(SHARDS[0])).num_rows == 0
    assert job.manifest(SHARDS[0])["stages"]["drop"]["rows_out"] == 0


def drop_all(batch):
    batch["drop_reason"] = ["all"] * len(batch["number"])
    return batch


def add_first(batch):
    """What comes out tells which rows were in a batch together."""
    batch["number"] = [1000 * batch["number"][0] + number for number in batch["number"]]
    return batch


def grouping_job(folder, *, before=(), lookahead=0):
    steps = (*before, Step("drop_threes", drop_threes), Step("add_first", add_first, 5, lookahead))
    return make_job(folder, *steps)


def read_output(job):
    return [pq.read_table(job.path(shard))["number"].to_pylist() for shard in SHARDS]


@pytest.mark.parametrize("lookahead", [0, 2])
def test_batches_go_on_from_one_shard_of_a_group_into_the_next(lookahead, tmp_path):
    job = grouping_job(tmp_path, lookahead=lookahead)
    run_job(job, [tuple(SHARDS)], engine=Engine())
    assert read_output(job) == [
        [0, 1, 2, 4],
        [10, 11011, 11012, 11014],
        [11020, 11021, 22022, 22024],
        [22030, 22031, 22032, 34034],
    ]
    totals = sum_manifests(job, SHARDS).stages
    assert totals["drop_threes"] == {"rows_in": 20, "rows_out": 16, "dropped": {"a three": 4}}
    assert job.manifest(SHARDS[2])["stages"]["add_first"] == {"rows_in": 4, "rows_out": 4, "dropped": {}}
    assert [job.manifest(shard)["notes"] for shard in SHARDS] == [{"odd": 1}] * 4


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_group_that_was_interrupted_meets_the_same_batches_again(lookahead, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_job(grouping_job(whole), [tuple(SHARDS)], engine=Engine())
    failing = grouping_job(stopped, before=(Step("fail", fail_on_shard_two),), lookahead=lookahead)
    with pytest.raises(ValueError, match="shard two is bad"):
        run_job(failing, [tuple(SHARDS)], engine=Engine())
    assert failing.manifest(SHARDS[2]) is None
    run_job(grouping_job(stopped), [tuple(SHARDS)], engine=Engine())
    assert read_bytes(stopped) == read_bytes(whole)


def drop_shard(batch, *, tens):
    batch["drop_reason"] = ["dropped" if number // 10 in tens else None for number in batch["number"]]
    return batch


@pytest.mark.parametrize("tens", [(0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_a_shard_of_a_group_that_is_left_with_nothing_is_done(tens, tmp_path):
    job = make_job(tmp_path, Step("drop", partial(drop_shard, tens=tens)), Step("keep", list_numbers, 3))
    run_job(job, [tuple(SHARDS)], engine=Engine())
    left = [[] if index in tens else [10 * index + i for i in range(5)] for index in range(4)]
    assert read_output(job) == left
    for shard in SHARDS:
        dropped = {"dropped": 5} if shard.index in tens else {}
        assert job.manifest(shard)["stages"]["drop"]["dropped"] == dropped


def list_numbers(batch):
    return batch


def test_small_shards_are_joined_and_large_ones_stand_alone(tmp_path):
    job = make_job(tmp_path)
    run_job(job, GROUPS, engine=Engine())  # Four rows of each shard are left.
    indices = {
        rows: [[shard.index for shard in group] for group in group_shards(SHARDS, before=job, min_rows=rows)]
        for rows in (1, 4, 5, 12, 99)
    }
    assert indices[1] == indices[4] == [[0], [1], [2], [3]]
    assert indices[5] == [[0, 1], [2, 3]]
    assert indices[12] == [[0, 1, 2], [3]]
    assert indices[99] == [[0, 1, 2, 3]]


def read_damaged(shard):
    """Four rows, of which two cannot be read."""
    reasons = [None, "no UTF-8", None, "no JSON"]
    yield {
        "number": [10 * shard.index + i for i in range(4)],
        "row": [0, 1, 2, 3],
        "image_id": list("abcd"),
        "drop_reason": reasons,
        "error": [None, "byte 0xff \ud800" if shard.index else None, None, "x" * 999],
    }


def reading_job(folder, **settings):
    stages = Stages(read_damaged, (Step("keep", list_numbers),), pa.schema({"number": pa.int64()}), reading="read")
    return stages_job("numbers", folder, "hash", stages, **settings)


def test_rows_that_a_reader_drops_are_counted_and_the_first_are_kept_for_people(tmp_path):
    job = reading_job(tmp_path)
    run_job(job, GROUPS, engine=Engine())
    assert pq.read_table(job.path(SHARDS[1]))["number"].to_pylist() == [10, 12]
    totals = sum_manifests(job, SHARDS)
    assert totals.stages["read"] == {"rows_in": 16, "rows_out": 8, "dropped": {"no UTF-8": 4, "no JSON": 4}}
    assert totals.stages["keep"] == {"rows_in": 8, "rows_out": 8, "dropped": {}}
    assert totals.examples["no UTF-8"] == [
        {"file": "source-0", "row": 1, "id": "b", "error": ""},
        {"file": "source-1", "row": 1, "id": "b", "error": "byte 0xff ?"},
        {"file": "source-2", "row": 1, "id": "b", "error": "byte 0xff ?"},
    ]
    assert {len(example["error"]) for example in totals.examples["no JSON"]} == {200}


def test_a_job_of_which_nearly_nothing_can_be_read_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr("data_scripts.engine.engines.MIN_ROWS_TO_JUDGE", 8)
    run_job(reading_job(tmp_path / "half", max_unreadable=0.5), GROUPS, engine=Engine())
    job = reading_job(tmp_path / "less", max_unreadable=0.49)
    with pytest.raises(ValueError, match=r"4 of 8 rows could not be read in read, .* 2 for 'no UTF-8', .* source-0"):
        run_job(job, GROUPS, engine=Engine())
    assert [job.manifest(shard) is not None for shard in SHARDS] == [True, True, False, False]


def two_steps(folder):
    job = make_job(folder)
    yield job, GROUPS
    yield dataclasses.replace(job, folder=folder / "short", is_short=True), GROUPS
    return "finished"


def test_a_task_of_an_array_does_its_share_and_says_when_others_are_missing(tmp_path, caplog):
    first, second = JobArray(2, 0), JobArray(2, 1)
    with caplog.at_level("INFO"):
        assert run_steps(two_steps(tmp_path), engine=Engine(), array=second) is None
    assert "numbers: 2 of 4 parts that other tasks do are not done yet" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["000001.json", "000003.json"]
    assert run_steps(two_steps(tmp_path), engine=Engine(), array=first) == "finished"
    assert run_steps(two_steps(tmp_path), engine=Engine(), array=second) == "finished"


def test_short_work_is_left_to_the_first_task_unless_they_wait_for_one_another():
    assert [JobArray(2, index).share("abcd", is_short=True) for index in (0, 1)] == ["abcd", ""]
    assert [JobArray(2, index, 9.0).share("abcd", is_short=True) for index in (0, 1)] == ["ac", "bd"]
    assert [JobArray(2, index).share("abcd") for index in (0, 1)] == ["ac", "bd"]
