"""Exact search by inner product among millions of vectors: with torch, in half precision also with faiss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


try:
    import faiss
except ImportError:
    faiss = None

CHUNK_VALUES = 2**26  # Inner products at once: 256 MiB.
WIDENED_ROWS = 65_536  # Vectors of half precision that are widened at once.
# faiss reads vectors of half precision as they are, but once per query; torch widens them first, once per batch.
MAX_FAISS_QUERIES = 10


class VectorSearch:
    """Vectors in memory; `benchmarks/entity_search.py` compares the ways to search them.

    Args:
        vectors: `[N, D]`; float32, or float16 for half the memory.
        use_faiss: Whether to take faiss for few queries in half precision, where it is installed.
    """

    def __init__(self, vectors: torch.Tensor, *, use_faiss: bool = True):
        self._half_index = None
        if use_faiss and faiss is not None and vectors.dtype == torch.float16 and len(vectors):
            vectors = self._build_half_index(vectors)
        self.vectors = vectors

    def _build_half_index(self, vectors: torch.Tensor) -> torch.Tensor:
        """Gives the vectors to faiss, and returns a view of its copy, so that there is only one."""
        index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:1].float().numpy())  # Half precision has nothing to learn.
        codes = vectors.contiguous().numpy().view(np.uint8).reshape(len(vectors), -1)
        index.add_sa_codes(codes)
        self._half_index = index
        view = faiss.rev_swig_ptr(index.codes.data(), codes.size).view(np.float16)
        return torch.from_numpy(view.reshape(vectors.shape))

    def top_k(self, queries: torch.Tensor, *, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds for each query the k vectors of largest inner product, scored in fp32.

        Args:
            queries: `[B, D]`.
            k: Results per query; at most N come back.

        Returns:
            Inner products and row indices, both `[B, min(k, N)]`, best first.
        """
        k, queries = min(k, len(self.vectors)), queries.float().contiguous()
        if not len(queries) or not k:
            return torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
        if self._half_index is None or len(queries) > MAX_FAISS_QUERIES:
            return chunked_top_k(queries, self.vectors, k=k)
        similarities, rows = self._half_index.search(queries.numpy(), k)
        return torch.from_numpy(similarities), torch.from_numpy(rows)


def chunked_top_k(
    queries: torch.Tensor, vectors: torch.Tensor, *, k: int, chunk_rows: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `VectorSearch.top_k`, with torch, `chunk_rows` vectors at once."""
    if chunk_rows is None:
        chunk_rows = max(1, CHUNK_VALUES // len(queries)) if vectors.dtype == torch.float32 else WIDENED_ROWS
    best = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(vectors), chunk_rows):
        similarities = queries @ vectors[start : start + chunk_rows].float().T  # [B, chunk]
        found, places = similarities.topk(min(k, similarities.shape[1]), dim=1)
        best, rows = torch.cat([best, found], dim=1), torch.cat([rows, places + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return best, rows


def check_lists(**lists: Sequence[Any] | torch.Tensor) -> None:
    """Refuses a text in place of a list, which would be read letter by letter, and lists of unequal length."""
    for name, values in lists.items():
        if isinstance(values, (str, bytes)):
            raise ValueError(f"{name} is the text {values!r}; give a list, with one value per row.")
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise ValueError(f"There are {counts}; give one of each per row.")
