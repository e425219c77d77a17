"""Two processes beside one, and memory that does not grow with the input.

    python -m benchmarks.data_processes

Runs the text phase on generated pairs, whose texts name entities of the sample's knowledge base, with one process and
with two, in turn, and compares the medians; then with one worker on ever more pairs, and reads its peak memory.
"""

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.evaluation_record import write_record
from data_scripts.build_arguments import FilterArguments, LabelArguments, LinkArguments, RunArguments, SourceArguments
from data_scripts.build_i2e import BuildArguments, link_phase, plan_build, write_statistics
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.engines import Engine, run_phase
from data_scripts.knowledge_base import KnowledgeBase


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_pairs", type=int, default=40_000)
    parser.add_argument("--memory_pairs", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_processes.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = KnowledgeBaseArguments("sample_data/entities.jsonl.gz", str(folder / "kb"), exclusions=None)
        knowledge_base = str(build_knowledge_base(source))
        measured = measure_processes(folder, knowledge_base, num_pairs=args.num_pairs, repeats=args.repeats)
        peaks = {count: measure_memory(folder, knowledge_base, num_pairs=count) for count in args.memory_pairs}
    measured |= {"peak_megabytes_by_pairs": peaks, "peak_ratio": max(peaks.values()) / min(peaks.values())}
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def write_pairs(path: Path, knowledge_base: str, *, num_pairs: int) -> str:
    """Distinct texts of eight words, one of them a name; the images are never opened here."""
    names = KnowledgeBase(knowledge_base).table["name"].to_pylist()
    generator = random.Random(0)
    schema = pa.schema({"image": pa.binary(), "alt_text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, num_pairs, 10_000):
            numbers = range(first, min(first + 10_000, num_pairs))
            texts = [f"a photo of {generator.choice(names)} on the table, number {number}" for number in numbers]
            writer.write_table(pa.table({"image": [b""] * len(texts), "alt_text": texts}, schema=schema))
    return str(path)


def run_text_phase(pairs: str, output_dir: Path, knowledge_base: str, *, engine: Engine) -> float:
    """Seconds of the text phase over all shards."""
    args = BuildArguments(
        SourceArguments(pairs, rows_per_shard=5_000),
        LinkArguments(knowledge_base, num_statistics_texts=1_000),
        FilterArguments("sample_data/tokenizer", keep_fraction=1.0),
        LabelArguments(),
        RunArguments(str(output_dir)),
    )
    build = plan_build(args)
    write_statistics(build)
    started = time.perf_counter()
    run_phase(link_phase(build), build.shards, engine=engine)
    return time.perf_counter() - started


def measure_processes(folder: Path, knowledge_base: str, *, num_pairs: int, repeats: int) -> dict[str, float]:
    """Median pairs per second with one worker process and with two; starting them is not counted."""
    pairs = write_pairs(folder / "pairs.parquet", knowledge_base, num_pairs=num_pairs)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    preload = ["data_scripts.build_phases"]
    with Engine(num_processes=2, preload=preload) as two:
        engines = {1: Engine(), 2: two}
        for turn in range(repeats + 1):
            for count, engine in engines.items():
                found = run_text_phase(pairs, folder / f"{count}-{turn}", knowledge_base, engine=engine)
                seconds[count] += [found] if turn else []
    speeds = {count: num_pairs / statistics.median(found) for count, found in seconds.items()}
    names = {f"pairs_per_second_of_{count}_processes": speed for count, speed in speeds.items()}
    return names | {"speed_of_two_relative_to_one": speeds[2] / speeds[1]}


def measure_memory(folder: Path, knowledge_base: str, *, num_pairs: int) -> float:
    """Peak resident memory, in MB, of a fresh process that runs the text phase on so many pairs."""
    pairs = write_pairs(folder / f"memory-{num_pairs}.parquet", knowledge_base, num_pairs=num_pairs)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=report_peak, args=(pairs, folder / f"out-{num_pairs}", knowledge_base, queue))
    worker.start()
    peak = queue.get()
    worker.join()
    return peak


def report_peak(pairs: str, output_dir: Path, knowledge_base: str, queue: multiprocessing.Queue) -> None:
    """Runs the text phase and reports the peak memory of this process."""
    run_text_phase(pairs, output_dir, knowledge_base, engine=Engine())
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
