"""Whoever runs a build, and however often it is killed, the bytes are the same; and no engine hangs on a mistake."""

import os
import random
import shutil
import signal
import time

import pytest
from tiny_build import BAD_IMAGES, error_of, make_pairs, read_build, write_pairs

from benchmarks.data_kills import kill_builds
from data_scripts.build_i2e import main
from data_scripts.images.filter_model import embed_images


ENGINES = {
    "two processes": {"num_processes": 2},
    "four processes": {"num_processes": 4},
    "threads": {"decode_threads": 2},
}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_writes_the_bytes_of_one_process(engine, recipe, tmp_path):
    settings = {"rows_per_shard": 5, "batch_size": 2}
    main(recipe(output_dir=tmp_path / "one" / "i2e", **settings))
    main(recipe(output_dir=tmp_path / "many" / "i2e", **settings, **ENGINES[engine]))
    assert read_build(tmp_path / "one" / "i2e") == read_build(tmp_path / "many" / "i2e")


def test_small_shards_fill_the_batches_of_the_model(recipe, tmp_path, monkeypatch):
    sizes = []

    def embed(prepared, *, filter_model):
        sizes.append(len(prepared))
        return embed_images(prepared, filter_model=filter_model)

    monkeypatch.setattr("data_scripts.images.score_entities.embed_images", embed)
    main(recipe(rows_per_shard=4, batch_size=5))
    assert len(list((tmp_path / "i2e" / "stages" / "score_entities").glob("*.parquet"))) == 9
    assert sizes == [5] * 6


def test_tasks_of_a_job_array_write_the_bytes_of_one_process(recipe, tmp_path):
    main(recipe(output_dir=tmp_path / "a" / "i2e"))
    for _ in range(2):
        for index in (1, 2, 0):
            main(recipe(output_dir=tmp_path / "b" / "i2e", num_shards=3, shard_index=index))
    main(recipe(output_dir=tmp_path / "b" / "i2e", num_shards=3, shard_index=0))
    assert read_build(tmp_path / "a" / "i2e") == read_build(tmp_path / "b" / "i2e")


def test_tasks_that_wait_for_one_another_share_every_step(recipe, tmp_path):
    settings = {"rows_per_shard": 5, "rows_per_file": 2, "max_images_per_entity": 4, "validation_fraction": 0.2}
    main(recipe(output_dir=tmp_path / "a" / "i2e", **settings))
    folder = tmp_path / "b" / "i2e"
    flags = recipe(output_dir=folder, num_shards=3, wait_seconds=60, **settings)
    children = [run_in_child([*flags, "--shard_index", str(index)], tmp_path / f"{index}.log") for index in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert read_build(tmp_path / "a" / "i2e") == read_build(folder)
    shares = [set((tmp_path / f"{index}.log").read_text().split()) for index in range(3)]
    names = [path.name for path in (folder / "data").iterdir()]
    assert len(names) > 5
    for written in (names, [f"{index:06d}.json" for index in range(8)]):
        assert [sum(name in share for share in shares) for name in written] == [1] * len(written)
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_every_task_says_that_nothing_is_left_and_none_waits_for_it(recipe, tmp_path, capsys):
    rows = [row | {"alt_text": "DSC00220"} for row in make_pairs(24)]
    settings = {"pairs": write_pairs(tmp_path / "none.parquet", rows), "num_shards": 2}
    main(recipe(**settings, shard_index=1))
    for index in (0, 1):
        message = error_of(capsys, recipe(**settings, shard_index=index, wait_seconds=3600))
        assert "no row is left after link_entities" in message


def run_in_child(flags, log):
    """Starts the build in a child that notes each Parquet file and manifest of labelled rows that it writes."""
    child = os.fork()
    if child:
        return child
    renamed = os.replace

    def note(source, target):
        renamed(source, target)
        if "data" in str(target).split("/") or "stages/label_entities" in str(target):
            with log.open("a") as file:
                file.write(f"{os.path.basename(target)}\n")

    os.replace = note
    main(flags)
    os._exit(0)


def run_killed(flags, seconds):
    """Runs the build in a child that is killed after a while; whether it was still running then."""
    child = os.fork()
    if child == 0:
        main(flags)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_twenty_random_moments_and_run_again_gives_the_same_bytes(recipe, tmp_path):
    main(recipe(output_dir=tmp_path / "a" / "i2e"))
    started = time.perf_counter()
    main(recipe(output_dir=tmp_path / "warm" / "i2e"))
    duration = time.perf_counter() - started
    expected = read_build(tmp_path / "a" / "i2e")
    generator = random.Random(0)
    for folder in (tmp_path / str(number) / "i2e" for number in range(4)):
        killed = 0
        while killed < 5:
            if run_killed(recipe(output_dir=folder), generator.uniform(0, duration)):
                killed += 1
            else:
                shutil.rmtree(folder)
        main(recipe(output_dir=folder))
        assert read_build(folder) == expected


def test_a_killed_command_with_two_processes_leaves_no_process_and_goes_on_to_the_same_bytes(recipe, tmp_path):
    flags = recipe(output_dir=None, num_processes=2, rows_per_shard=4)
    result = kill_builds(flags, tmp_path, num_kills=2, kills_per_build=2)
    assert result["kills"] == {"SIGKILL": 1, "SIGTERM": 1}
    assert result["builds_with_the_same_bytes"] == result["builds"] == 1
    assert (result["processes_left"], result["temporary_files_left"]) == ([], 0)
    assert max(result["longest_seconds_to_the_end_of_all_processes"].values()) < 60


LEFT = ("README.md", "data/train-00000-of-00001.parquet", "stages/link_entities/000000.parquet", "stages/x/y/z.npy")


def test_what_killed_builds_left_half_written_is_removed(recipe, tmp_path):
    main(recipe())
    for name in LEFT:
        path = tmp_path / "i2e" / f"{name}.tmp.0123abcd"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    main(recipe())
    assert not list(tmp_path.rglob("*.tmp.*"))
    assert (tmp_path / "i2e" / "data" / "train-00000-of-00001.parquet").is_file()


AT_ONCE = [
    ({"alt_text_column": "caption"}, "has no column 'caption'"),
    ({"min_similarity": 1.0, "keep_fraction": None}, "no entity has 2 images"),
]


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize(("settings", "message"), AT_ONCE, ids=["missing column", "everything filtered"])
def test_every_engine_names_the_cause(settings, message, num_processes, recipe, capsys):
    assert message in error_of(capsys, recipe(**settings, num_processes=num_processes))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_images_that_are_all_bad_are_an_error_that_says_so(num_processes, recipe, tmp_path, capsys):
    rows = make_pairs(24)
    for row in rows:
        row["image"] = {"bytes": BAD_IMAGES["truncated image"], "path": None}
    pairs = write_pairs(tmp_path / "bad.parquet", rows)
    message = error_of(capsys, recipe(pairs=pairs, num_processes=num_processes))
    assert "20 of 20 rows could not be read in decode_images, which is more than max_unreadable 0.9" in message
    assert "20 for 'truncated image', the first of them row 0 of" in message
    settings = {"num_processes": num_processes, "max_unreadable": 1}
    message = error_of(capsys, recipe(pairs=pairs, **settings))
    assert "no row is left after score_entities" in message
    assert "'truncated image': 20" in message
