"""Two worker processes of the data build beside one, each with one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.data_processes

Generated pairs, whose texts name entities of the sample's knowledge base, with 64-pixel JPEGs and a small CLIP with
random weights. Each phase runs with one process and with two, in turn, and the medians are compared, workers already
started; then the whole command does, start-up, planning, labels and report included. Beside them stands what the
machine itself can do: a loop of plain Python in one process, and in two at once that share nothing.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import (
    build_sample_knowledge_base,
    encode_noise,
    plan_generated,
    write_clip,
    write_pairs,
)
from data_scripts.build_i2e import embed_candidates
from data_scripts.engine.engines import Engine, run_job, run_steps
from data_scripts.engine.jobs import Group, Job, single
from data_scripts.phases import Build, link_job, score_groups, score_job


ROWS_PER_SHARD = 1_000
NUM_LOOPS, LOOP_STEPS = 10, 10_000_000
# No pipes: whoever outlives the command for a moment would hold them open.
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
MODEL = {"hidden_size": 128, "num_layers": 4, "image_size": 64, "patch_size": 16}


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_texts", type=int, default=30_000)
    parser.add_argument("--num_images", type=int, default=6_000)
    parser.add_argument("--num_command_images", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_processes.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Engine(num_processes=2, preload=["data_scripts.phases"]) as two:
        folder = Path(name)
        knowledge_base, clip = build_sample_knowledge_base(folder), write_clip(folder / "clip", **MODEL)
        engines = {1: Engine(), 2: two}
        measured = {"plain_python": measure_machine(engines, args)}
        measured["text_phase"] = measure_texts(folder, knowledge_base, clip, engines, args)
        pairs = write_images(folder, knowledge_base, args.num_images)
        measured["image_phase"] = measure_images(folder, pairs, knowledge_base, clip, engines, args)
        pairs = write_images(folder, knowledge_base, args.num_command_images)
        measured["whole_command"] = measure_command(folder, pairs, knowledge_base, clip, args)
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def count_up(limit: int) -> None:
    """Some work that no other process has a part in."""
    total = 0
    for number in range(limit):
        total += number & 7


def measure_machine(engines: dict[int, Engine], args: argparse.Namespace) -> dict[str, float]:
    """Plain Python in one process and in two."""

    def run(count: int) -> None:
        list(engines[count].run(count_up, [LOOP_STEPS] * NUM_LOOPS))

    return speeds(run, num_pairs=NUM_LOOPS, repeats=args.repeats)


def write_images(folder: Path, knowledge_base: str, num_pairs: int) -> str:
    """Pairs with a hundred different small images."""
    images = [encode_noise((64, 64), seed=seed) for seed in range(100)]
    return write_pairs(folder / "images.parquet", knowledge_base, num_pairs=num_pairs, images=images)


def measure_texts(
    folder: Path, knowledge_base: str, clip: str, engines: dict[int, Engine], args: argparse.Namespace
) -> dict[str, float]:
    """The text phase; no image is opened, so there is none."""
    pairs = write_pairs(folder / "texts.parquet", knowledge_base, num_pairs=args.num_texts, images=[b""])
    options = {"filter_model": clip, "rows_per_shard": ROWS_PER_SHARD}
    build = plan_generated(pairs, folder / "texts", knowledge_base, **options)
    return compare(link_job(build), single(build.shards), engines, num_pairs=args.num_texts, args=args)


def measure_images(
    folder: Path, pairs: str, knowledge_base: str, clip: str, engines: dict[int, Engine], args: argparse.Namespace
) -> dict[str, float]:
    """The image phase, after a text phase that is not counted."""
    build: Build = plan_generated(
        pairs, folder / "images", knowledge_base, filter_model=clip, rows_per_shard=ROWS_PER_SHARD, batch_size=64
    )
    run_job(link_job(build), single(build.shards), engine=engines[1])
    run_steps(embed_candidates(build), engine=Engine())
    return compare(score_job(build), score_groups(build), engines, num_pairs=args.num_images, args=args)


def compare(
    job: Job, groups: list[Group], engines: dict[int, Engine], *, num_pairs: int, args: argparse.Namespace
) -> dict[str, float]:
    """Pairs per second of a phase with each engine, to a new folder each time."""

    def run(count: int) -> None:
        target = job.folder.with_name("turn")
        run_job(dataclasses.replace(job, folder=target), groups, engine=engines[count])
        shutil.rmtree(target)

    return speeds(run, num_pairs=num_pairs, repeats=args.repeats)


def measure_command(
    folder: Path, pairs: str, knowledge_base: str, clip: str, args: argparse.Namespace
) -> dict[str, float]:
    """The whole command from nothing to the finished dataset, and how long it takes to start."""
    command = [sys.executable, "-m", "data_scripts.build_i2e"]
    settings = {
        "pairs": pairs,
        "knowledge_base": knowledge_base,
        "filter_model": clip,
        "keep_fraction": 1.0,
        "min_images_per_entity": 1,
        "rows_per_shard": ROWS_PER_SHARD,
        "batch_size": 64,
        "output_dir": folder / "command",
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]

    def run(count: int) -> None:
        shutil.rmtree(folder / "command", ignore_errors=True)
        subprocess.run([*command, *flags, "--num_processes", str(count)], check=True, **SILENT)

    started = time.perf_counter()
    subprocess.run([*command, "--help"], check=True, **SILENT)
    seconds = time.perf_counter() - started
    found = speeds(run, num_pairs=args.num_command_images, repeats=1, warm_up=0)
    return found | {"seconds_to_start": seconds}


def speeds(run: Callable[[int], None], *, num_pairs: int, repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median pairs (or loops) per second with one process and with two, which take turns; the first ones warm up."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(repeats + warm_up):
        for count, found in seconds.items():
            started = time.perf_counter()
            run(count)
            found += [time.perf_counter() - started] if turn >= warm_up else []
    one, two = (num_pairs / statistics.median(found) for found in seconds.values())
    return {
        "per_second_of_one_process": one,
        "per_second_of_two_processes": two,
        "two_relative_to_one": two / one,
    }


if __name__ == "__main__":
    main()
