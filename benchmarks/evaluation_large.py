"""Peak memory of retrieval's mAP on 100,000 x 512 embeddings.

    python -m benchmarks.evaluation_large --output benchmarks/results/evaluation_large.json

The full matrix of scores would take 40 GB. Fewer `--queries` take less time and the same memory: the scores of one
chunk of queries against the whole gallery.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.evaluation_record import write_record
from metrics.knn_accuracy.knn_accuracy import nearest
from metrics.retrieval_map.retrieval_map import average_precision


LIMIT_GIB = 8


def main() -> None:
    """Ranks, and fails if the process ever took more than 8 GiB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.nn.functional.normalize(torch.randn(args.images, 512, generator=generator))
    labels = np.arange(args.images) // 10
    started = time.perf_counter()
    precisions = average_precision(embeds[: args.queries], labels[: args.queries], embeds, labels)
    measured = {"images": args.images, "queries": args.queries, "threads": args.threads}
    measured |= {"mAP": float(precisions.mean()), "seconds": round(time.perf_counter() - started, 1)}
    started = time.perf_counter()
    nearest(embeds[: min(args.queries, 2000)], embeds, k=20)
    measured["seconds_of_20_nearest_of_2000"] = round(time.perf_counter() - started, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measured["peak_gib"] = round(peak, 3)
    print(json.dumps(measured))
    if args.output:
        write_record(args.output, measured)
    if peak > LIMIT_GIB:
        raise SystemExit(f"The peak of {peak:.2f} GiB is above {LIMIT_GIB} GiB.")


if __name__ == "__main__":
    main()
