"""Exact search among two million entities: this package's search beside faiss's flat index, torch and NumPy.

    python -m benchmarks.entity_search --threads 2

Methods take turns within each round; a time is the median of its rounds. Queries are noisy copies of vectors. It
writes benchmarks/results/entity_search.json and .md.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.evaluation_record import write_record
from modeling_mofi.search.vector_search import VectorSearch


RESULT = Path(__file__).parent / "results" / "entity_search"
K = 10
ROUNDS = {1: 7, 8: 5, 64: 3}  # By number of queries at once.
NUM_RECALL_QUERIES = 256
COSINE = 0.5  # Of a query with the vector that it is made from.

Search = Callable[[torch.Tensor], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    vectors = unit_rows(args.vectors, args.dim)
    queries = noisy_copies(vectors, NUM_RECALL_QUERIES)
    measured = {"vectors": args.vectors, "dim": args.dim, "threads": args.threads, "k": K}
    measured |= {"memory": {}, "milliseconds": {}}
    searches, precise = {}, None
    for name, build in builders(vectors).items():
        before = resident_bytes()
        searches[name] = build()
        measured["memory"][name] = round((resident_bytes() - before) / 2**20)
        print(f"built {name}: {measured['memory'][name]:,} MiB", flush=True)
    for num_queries, num_rounds in ROUNDS.items():
        times = take_turns(searches, queries[:num_queries], num_rounds)
        measured["milliseconds"][num_queries] = times
        print(num_queries, times, flush=True)
    precise = searches["this package"](queries)
    measured["half_precision_recall"] = recalls(searches["this package, float16"](queries), precise)
    write_record(args.output.with_suffix(".json"), measured)
    args.output.with_suffix(".md").write_text(markdown(measured), encoding="utf-8")
    print(markdown(measured))


def unit_rows(num_rows: int, dim: int, *, seed: int = 0) -> torch.Tensor:
    """Random vectors of unit length, made block by block so that there is only one copy."""
    rows = torch.empty(num_rows, dim)
    generator = torch.Generator().manual_seed(seed)
    for block in rows.split(100_000):
        block.normal_(generator=generator)
        block /= block.norm(dim=1, keepdim=True)
    return rows


def noisy_copies(vectors: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Vectors at a given cosine with some of those searched, as an image is with its entity."""
    rows = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))[:num_queries]
    noise = unit_rows(num_queries, vectors.shape[1], seed=2)
    mixed = COSINE * vectors[rows] + (1 - COSINE**2) ** 0.5 * noise
    return mixed / mixed.norm(dim=1, keepdim=True)


def builders(vectors: torch.Tensor) -> dict[str, Callable[[], Search]]:
    """What makes each method ready to search; what it returns gives the rows of the `K` best, `[B, K]`."""

    def ours(dtype: torch.dtype) -> Search:
        search = VectorSearch(vectors.to(dtype))
        return lambda queries: search.top_k(queries, k=K)[1].numpy()

    def flat() -> Search:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors.numpy())
        return lambda queries: index.search(queries.numpy(), K)[1]

    def with_numpy(queries: torch.Tensor) -> np.ndarray:
        similarities = queries.numpy() @ vectors.numpy().T
        best = np.argpartition(-similarities, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(similarities, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return {
        "this package": lambda: ours(torch.float32),
        "faiss flat index": flat,
        "torch, one product and topk": lambda: lambda queries: (queries @ vectors.T).topk(K, dim=1).indices.numpy(),
        "NumPy, one product and argpartition": lambda: with_numpy,
        "this package, float16": lambda: ours(torch.float16),
    }


def take_turns(searches: dict[str, Search], queries: torch.Tensor, num_rounds: int) -> dict[str, float]:
    """Median milliseconds of each search."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(num_rounds):
        for name, search in searches.items():
            started = time.perf_counter()
            search(queries)
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: round(median(values), 1) for name, values in times.items()}


def recalls(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Share of the best 1 and of the best 10 that are found again."""
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
    return {"recall@1": float((found[:, 0] == expected[:, 0]).mean()), f"recall@{K}": sum(shared) / expected.size}


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def markdown(measured: dict[str, Any]) -> str:
    """A table of milliseconds, and of how often faiss's flat index takes what this package takes."""
    columns = measured["milliseconds"]
    head = f"Exact search among {measured['vectors']:,} x {measured['dim']} vectors, {measured['threads']} threads: "
    head += "median milliseconds for so many queries at once; in brackets faiss's flat index's time by this time.\n"
    lines = [head, "| | memory taken | " + " | ".join(f"{count} queries" for count in columns) + " |"]
    lines.append("|:--|--:|" + "--:|" * len(columns))
    for name in columns[1]:
        cells = [f"{times[name]:,.0f} ({times['faiss flat index'] / times[name]:.2f}x)" for times in columns.values()]
        lines.append(f"| {name} | {measured['memory'][name]:,} MiB | " + " | ".join(cells) + " |")
    shares = ", ".join(f"{name} {share:.4f}" for name, share in measured["half_precision_recall"].items())
    size = measured["vectors"] * measured["dim"] * 4 / 2**20
    note = f"The vectors themselves take {size:,.0f} MiB in float32, which all but faiss and float16 search in place. "
    note += f"An index in float16 stands in their place; of float32's results it finds {shares}."
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    main()
