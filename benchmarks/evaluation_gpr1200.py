"""GPR1200's mAP beside the official evaluation and beside its bare matrix product, on 12,000 x 512 embeddings.

git clone https://github.com/Visual-Computing/GPR1200
python -m benchmarks.evaluation_gpr1200 GPR1200 --output benchmarks/results/evaluation_gpr1200.json
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evaluation_record import write_record
from evaluation.gpr1200 import DOMAINS, gpr1200
from metrics.retrieval_map.retrieval_map import SCORES_PER_CHUNK


NUM_IMAGES, DIM = 12000, 512
CATEGORIES = np.arange(NUM_IMAGES) // 10
OFFICIAL_ORDER = ("Landmarks", "iNat", "IMSketch", "Instre", "SOP", "faces")  # As `GPR1200.evaluate` returns them.


def main() -> None:
    """Measures both on random and on clustered embeddings, and fails if the values differ in 4 decimals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="A checkout of Visual-Computing/GPR1200.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not (args.checkout / "eval" / "GPR1200.py").is_file():
        parser.error(f"{args.checkout} has no eval/GPR1200.py; clone https://github.com/Visual-Computing/GPR1200")
    rows = []
    for kind in ("random", "clustered"):
        official = measured(run_official, kind, args.threads, args.checkout)
        product = measured(run_product, kind, args.threads)
        ours = measured(run_ours, kind, args.threads)
        row = {"embeddings": kind, "official": official, "product": product, "ours": ours}
        row["is_equal"] = official["values"] == ours["values"]
        row["times_as_fast"] = round(official["seconds"] / ours["seconds"], 2)
        # On a machine that others use too, the processor's time is the fairer one.
        row["times_as_fast_by_cpu"] = round(official["cpu_seconds"] / ours["cpu_seconds"], 2)
        row["times_the_product_by_cpu"] = round(ours["cpu_seconds"] / product["cpu_seconds"], 2)
        row["share_of_memory"] = round(ours["added_mib"] / official["added_mib"], 3)
        print(json.dumps(row))
        rows.append(row)
    if args.output:
        write_record(args.output, {"threads": args.threads, "measurements": rows})
    if not all(row["is_equal"] for row in rows):
        sys.exit("The values differ from the official ones.")


def embeddings(kind: str) -> np.ndarray:
    """Unit-length rows of shape (12000, 512); clustered ones lie around the center of their category."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((NUM_IMAGES, DIM), dtype=np.float32)
    if kind == "clustered":
        centers = generator.standard_normal((CATEGORIES.max() + 1, DIM), dtype=np.float32)
        spread = generator.uniform(1.0, 6.0, (len(centers), 1)).astype(np.float32)
        rows = centers[CATEGORIES] + spread[CATEGORIES] * rows
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measured(function: Any, kind: str, threads: int, *arguments: Any) -> dict[str, Any]:
    """Runs `function` in a fresh process: its values, wall and processor seconds, and the memory it added."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_here, (function, kind, threads, *arguments))


def measure_here(function: Any, kind: str, threads: int, *arguments: Any) -> dict[str, Any]:
    """`measured`, inside the process."""
    torch.set_num_threads(threads)
    rows = embeddings(kind)
    run, before = function(*arguments), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu_started = time.perf_counter(), time.process_time()
    values = run(rows)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "values": values,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "added_mib": round(added / 1024, 1),
    }


def run_ours() -> Any:
    """The evaluation of this project."""

    def run(rows: np.ndarray) -> dict[str, float]:
        scores = gpr1200(torch.from_numpy(rows), CATEGORIES.tolist())
        return {name: round(float(np.nanmean(values)), 4) for name, values in scores.items()}

    return run


def run_product() -> Any:
    """The scores alone, in chunks of the same size."""

    def run(rows: np.ndarray) -> dict[str, float]:
        embeds = torch.from_numpy(rows)
        size = SCORES_PER_CHUNK // NUM_IMAGES
        scores = torch.empty(size, NUM_IMAGES)
        for chunk in embeds.split(size):
            torch.mm(chunk, embeds.T, out=scores[: len(chunk)])
        return {}

    return run


def run_official(checkout: Path) -> Any:
    """The official evaluation, on a folder with the names of 12,000 images."""
    sys.path.insert(0, str(checkout / "eval"))
    from GPR1200 import GPR1200

    folder = tempfile.TemporaryDirectory()
    for index, category in enumerate(CATEGORIES):
        Path(folder.name, f"{category}_{index}.jpg").touch()
    official = GPR1200(folder.name)

    def run(rows: np.ndarray) -> dict[str, float]:
        values = official.evaluate(features=rows, compute_partial=True)
        folder.cleanup()
        return {name: float(value) for name, value in zip(("mAP", *OFFICIAL_ORDER), values, strict=True)}

    return run


if __name__ == "__main__":
    assert OFFICIAL_ORDER == DOMAINS
    main()
