"""Recall at k: how often one of the k nearest rows of a gallery is relevant, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/recall_at_k")
    metric.compute(image_embeds=images, labels=image_ids, gallery_embeds=texts, gallery_labels=text_image_ids)

A gallery row is relevant when its label equals the query's. The scores are dot products in fp32: pass rows of unit
length for the cosine. Equal scores rank by gallery index.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch


Rows = np.ndarray | torch.Tensor  # [rows, D]
Labels = Sequence[str] | Sequence[int] | np.ndarray

SCORES_PER_CHUNK = 2**24  # 64 MiB of fp32

DESCRIPTION = "Share of queries with a relevant row among the k nearest of a gallery; ties rank by gallery index."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: What is relevant to each query, all strings or all ints.
    gallery_embeds, gallery_labels: What is searched.
    ks: The k to report; 1, 5 and 10 if left out.
Returns:
    recall@k in [0, 1] for each k, num_queries that count, num_excluded that have nothing relevant in the gallery.
"""


def best_rank(
    query_embeds: Rows,
    query_labels: Labels,
    gallery_embeds: Rows,
    gallery_labels: Labels,
    *,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> np.ndarray:
    """Rank, from 1, of each query's best relevant row; float64 of shape (num_queries,), NaN where none is relevant.

    Args:
        query_embeds: Array or tensor of shape (num_queries, D); a tensor decides the device.
        gallery_embeds: Shape (num_gallery, D).
        scores_per_chunk: Bound on the scores held at once; it changes the memory, not the result.

    Raises:
        ValueError: If shapes disagree or a row is not finite.
    """
    query = finite_rows(query_embeds, query_labels, "query")
    gallery = finite_rows(gallery_embeds, gallery_labels, "gallery").to(query.device)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"The query has {query.shape[1]} dimensions but the gallery {gallery.shape[1]}.")
    codes = encode_labels(query_labels, gallery_labels).to(query.device)
    query_codes, gallery_codes = codes[: len(query)], codes[len(query) :]
    order = torch.argsort(gallery_codes, stable=True)
    counts = torch.bincount(gallery_codes, minlength=int(codes.max()) + 1)
    starts = counts.cumsum(0) - counts
    rows = max(1, scores_per_chunk // (len(gallery) + 4 * int(counts.max())))
    ranks = []
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ gallery.T  # [rows, num_gallery]
        chunk = query_codes[start : start + rows, None]
        offsets = torch.arange(max(1, int(counts[chunk].max())), device=query.device)
        is_relevant = offsets < counts[chunk]  # [rows, most relevant]
        relevant = order[(starts[chunk] + offsets).clamp(max=len(order) - 1)]
        ranks.append(rank_of_best(scores, relevant, is_relevant).cpu())
    return torch.cat(ranks).numpy()


def rank_of_best(scores: torch.Tensor, relevant: torch.Tensor, is_relevant: torch.Tensor) -> torch.Tensor:
    """float64 rank of the best of the columns `relevant` in each row, NaN where there is none."""
    wanted = scores.gather(1, relevant).masked_fill(~is_relevant, -torch.inf)
    best = wanted.max(dim=1, keepdim=True).values
    first = relevant.masked_fill(wanted < best, scores.shape[1]).min(dim=1, keepdim=True).values
    above = (scores > best).sum(dim=1)
    is_before = torch.arange(scores.shape[1], device=scores.device) < first
    level_before = ((scores == best) & is_before).sum(dim=1)
    return (above + level_before + 1).double().masked_fill(~is_relevant.any(dim=1), torch.nan)


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the rank is at most k, 0 where it is more, NaN where there is none."""
    return np.where(np.isnan(ranks), np.nan, ranks <= k)


def finite_rows(embeds: Rows, labels: Labels, name: str) -> torch.Tensor:
    """fp32 tensor of shape (rows, D) with one label per row and finite values, or a ValueError that names the rows."""
    embeds = torch.as_tensor(embeds).float()
    if embeds.ndim != 2 or not len(embeds):
        raise ValueError(f"The {name} embeddings have shape {tuple(embeds.shape)}; expected (rows, D) with rows.")
    if len(embeds) != len(labels):
        raise ValueError(f"The {name} has {len(embeds)} embeddings and {len(labels)} labels; expected one per row.")
    bad = torch.where(~embeds.isfinite().all(dim=1))[0].tolist()
    if bad:
        raise ValueError(f"{len(bad)} {name} embeddings are NaN or infinite, rows {bad[:10]}; leave these rows out.")
    return embeds


def encode_labels(*labels: Labels) -> torch.Tensor:
    """Integer codes, equal where the labels are equal, for all groups of labels one after the other."""
    groups = [np.asarray(group) for group in labels]
    if len({group.dtype.kind in "US" for group in groups}) > 1:
        raise ValueError("The query and gallery labels mix strings and numbers; give both in the same form.")
    return torch.from_numpy(np.unique(np.concatenate(groups), return_inverse=True)[1].reshape(-1))


def check_labels(labels: Labels) -> list[str] | list[int]:
    """Labels as a list of strings or of ints; `evaluate` itself would cut a float to an int without a word.

    Raises:
        ValueError: If a label is neither, or both kinds occur.
    """
    labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    kinds = {int if isinstance(label, np.integer) else type(label) for label in labels}
    if kinds not in ({str}, {int}):
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "empty"
        raise ValueError(f"The labels are {names}; give all strings or all ints.")
    return labels


class RecallAtK(evaluate.Metric):
    """The `evaluate` module around `best_rank`."""

    def _info(self) -> evaluate.MetricInfo:
        embeds = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=[
                datasets.Features({"image_embeds": embeds, "labels": datasets.Value(kind)})
                for kind in ("string", "int64")  # In the other order "1984" would be read as a number.
            ],
        )

    def add_batch(self, *, labels, **columns) -> None:
        """Adds rows whose labels are all strings or all ints."""
        super().add_batch(labels=check_labels(labels), **columns)

    def _compute(self, image_embeds, labels, gallery_embeds, gallery_labels, ks=(1, 5, 10)) -> dict:
        ranks = best_rank(np.asarray(image_embeds), labels, gallery_embeds, gallery_labels)
        counted = ranks[~np.isnan(ranks)]
        recalls = {f"recall@{k}": float((counted <= k).mean()) if len(counted) else float("nan") for k in ks}
        return {**recalls, "num_queries": len(counted), "num_excluded": len(ranks) - len(counted)}
