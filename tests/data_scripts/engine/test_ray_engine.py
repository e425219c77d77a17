"""Builds on Ray."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from tiny_build import read_build

from data_scripts.build_i2e import main
from data_scripts.engine.engines import Engine, run_job
from data_scripts.engine.jobs import single
from data_scripts.engine.ray_engine import join_cluster
from data_scripts.engine.stages import Stages, Step, stages_job
from data_scripts.schema import Shard


pytestmark = pytest.mark.timeout(600)  # Starting a cluster takes seconds on an idle machine, minutes on a busy one.
FOLDER = Path(__file__).parent
SHARDS = [Shard(index, "test", f"source-{index}") for index in range(6)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two cores of this machine, for all tests of this file."""
    # The workers unpickle functions of this file, which imports from its folder.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(FOLDER), *map(str, FOLDER.parents[:3])])}}
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    yield
    ray.shutdown()


def read_numbers(shard):
    yield {"number": [10 * shard.index + i for i in range(5)]}


def fail_on_shard_four(batch):
    if batch["number"][0] == 40:
        raise ValueError("shard four is bad")
    return batch


def make_job(folder, *steps):
    return stages_job("numbers", folder, "hash", Stages(read_numbers, steps, pa.schema({"number": pa.int64()})))


def test_shards_are_committed_on_ray(tmp_path):
    job = make_job(tmp_path)
    run_job(job, single(SHARDS), engine=Engine("ray"))
    assert pq.read_table(job.path(SHARDS[5]))["number"].to_pylist() == [50, 51, 52, 53, 54]
    assert all(job.manifest(shard) for shard in SHARDS)


def test_an_error_on_ray_comes_out_and_what_is_done_stays(tmp_path):
    job = make_job(tmp_path, Step("fail", fail_on_shard_four))
    started = time.monotonic()
    with pytest.raises(ValueError, match="shard four is bad"):
        run_job(job, single(SHARDS), engine=Engine("ray"))
    assert time.monotonic() - started < 30
    assert job.manifest(SHARDS[4]) is None
    assert any(job.manifest(shard) for shard in SHARDS)


def test_a_cluster_that_was_there_is_not_ended():
    with Engine("ray") as engine:
        list(engine.run(str, [1, 2]))
    assert ray.is_initialized()
    assert not join_cluster()


@pytest.mark.parametrize(
    ("column", "message"),
    [("alt_text_column", "has no column 'caption'"), ("image_column", "has no column 'caption'")],
)
def test_a_missing_column_is_named_at_once(column, message, recipe):
    started = time.monotonic()
    with pytest.raises(ValueError, match=message):
        main(recipe(engine="ray", **{column: "caption"}))
    assert time.monotonic() - started < 30


def test_one_process_several_ray_and_a_job_array_give_the_same_bytes(recipe, tmp_path):
    settings = {"rows_per_shard": 5, "batch_size": 2, "max_images_per_entity": 4, "validation_fraction": 0.2}
    main(recipe(output_dir=tmp_path / "one" / "i2e", **settings))
    main(recipe(output_dir=tmp_path / "processes" / "i2e", num_processes=2, **settings))
    main(recipe(output_dir=tmp_path / "ray" / "i2e", engine="ray", **settings))
    # Each task does its share of a job when all have done theirs of the one before.
    for index in (1, 0, 1, 0, 0):
        main(recipe(output_dir=tmp_path / "array" / "i2e", num_shards=2, shard_index=index, **settings))
    one, *others = (read_build(tmp_path / name / "i2e") for name in ("one", "processes", "ray", "array"))
    assert len([name for name in one if name.startswith("stages/score_entities/") and name.endswith(".json")]) == 8
    for other in others:
        assert other == one
