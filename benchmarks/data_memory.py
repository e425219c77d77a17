"""Peak memory of a worker of the data build, by the size of its input.

    python -m benchmarks.data_memory

Each size runs in a fresh process: the text phase alone on generated pairs, and whole builds, from planning to the
report, with tiny images and a tiny CLIP. With spaCy, every text has three words that no other text has. What is read
is the process's highest resident memory. The seconds only show that the work grows with the input: a text phase and a
build run side by side.
"""

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import (
    build_sample_knowledge_base,
    encode_noise,
    plan_generated,
    write_clip,
    write_pairs,
    write_tiny_ner,
)
from data_scripts.build_i2e import build_steps
from data_scripts.engine.engines import Engine, run_job, run_steps
from data_scripts.engine.jobs import single
from data_scripts.phases import link_job


MODEL = {"hidden_size": 32, "num_layers": 1, "image_size": 32, "patch_size": 16}


NUM_NEW_WORDS = 3


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_texts", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--num_spacy_texts", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--num_images", type=int, nargs="*", default=[100_000, 500_000])
    parser.add_argument("--spacy_model", default=None, help="Otherwise a tiny pipeline, untrained.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_memory.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as lanes:
        folder = Path(name)
        knowledge_base, clip = build_sample_knowledge_base(folder), write_clip(folder / "clip", **MODEL)
        ner = {"spacy_model": args.spacy_model or write_tiny_ner(folder / "ner")}
        parts = {
            "text_phase": (args.num_texts, {}),
            "text_phase_with_spacy": (args.num_spacy_texts, ner),
            "whole_build": (args.num_images, {"filter_model": clip}),
        }
        waiting = {
            part: lanes.submit(measure_peaks, folder, knowledge_base, sizes, models)
            for part, (sizes, models) in parts.items()
            if sizes
        }
        measured = {part: peaks.result() for part, peaks in waiting.items()}
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def measure_peaks(folder: Path, knowledge_base: str, sizes: list[int], models: dict[str, str]) -> dict[str, object]:
    """Peak memory of each size, one after the other, and of the last relative to the first."""
    peaks = {size: measure_peak(folder, knowledge_base, models, num_pairs=size) for size in sizes}
    megabytes = [peak["peak_megabytes"] for peak in peaks.values()]
    return {"by_pairs": peaks, "largest_relative_to_smallest": megabytes[-1] / megabytes[0]}


def measure_peak(folder: Path, knowledge_base: str, models: dict[str, str], *, num_pairs: int) -> dict[str, float]:
    """Peak resident memory of a fresh process that works on so many pairs."""
    images = [encode_noise((32, 32), seed=seed) for seed in range(100)] if "filter_model" in models else [b""]
    output = folder / "-".join([*models, str(num_pairs)])
    pairs = write_pairs(
        output.with_suffix(".parquet"),
        knowledge_base,
        num_pairs=num_pairs,
        images=images,
        num_new_words=NUM_NEW_WORDS if "spacy_model" in models else 0,
    )
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=report_peak, args=(pairs, output, knowledge_base, models, queue))
    worker.start()
    found = queue.get()
    worker.join()
    return found


def report_peak(
    pairs: str, output: Path, knowledge_base: str, models: dict[str, str], queue: multiprocessing.Queue
) -> None:
    """Runs the text phase or a whole build, and reports seconds and the peak memory of this process."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    build = plan_generated(pairs, output, knowledge_base, **{"filter_model": str(output.parent / "clip")} | models)
    if "filter_model" in models:
        run_steps(build_steps(build), engine=Engine())
    else:
        run_job(link_job(build), single(build.shards), engine=Engine())
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    # `ru_maxrss` would also count what the parent held when it started this process.
    kilobytes = int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    written = sum(path.stat().st_size for path in output.rglob("link_entities/*"))
    seconds = time.perf_counter() - started
    queue.put({"peak_megabytes": kilobytes / 1024, "seconds": seconds, "megabytes_of_text_phase": written / 1e6})


if __name__ == "__main__":
    main()
