"""Recall at k: how often one of the k nearest rows of a gallery is relevant, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/recall_at_k")
    metric.compute(image_embeds=image_embeds, labels=labels)                      # each row queries the other rows
    metric.compute(image_embeds=images, labels=image_ids, gallery_embeds=texts, gallery_labels=text_image_ids)

A gallery row is relevant when it shares a label with the query. The scores are dot products in fp32: pass rows of unit
length for the cosine. Equal scores rank by gallery index.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch


Rows = np.ndarray | torch.Tensor  # [rows, D]
Label = str | int
Labels = Sequence[Label] | Sequence[Sequence[Label]] | np.ndarray

SCORES_PER_CHUNK = 2**24  # 64 MiB of fp32

CITATION = """@inproceedings{karpathy2015deep,
  title = {Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author = {Karpathy, Andrej and Fei-Fei, Li},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2015},
}"""
DESCRIPTION = "Share of queries with a relevant row among the k nearest of a gallery; ties rank by gallery index."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: Label of each query, all strings or all ints; or a list of labels each, of which any counts.
    gallery_embeds, gallery_labels: What is searched; the queries themselves, each without itself, if left out.
    ks: The k to report; 1, 5 and 10 if left out.
    k, temperature, keep_query: Options of the other modules of this project, taken without use, so that
        `evaluate.combine` can hand one set of arguments to all.
Returns:
    recall@k in [0, 1] for each k, num_queries that count, num_excluded that have nothing relevant in the gallery.
"""


def best_rank(
    query_embeds: Rows,
    query_labels: Labels,
    gallery_embeds: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> np.ndarray:
    """Rank, from 1, of each query's best relevant row; float64 of shape (num_queries,), NaN where none is relevant.

    Args:
        query_embeds: Array or tensor of shape (num_queries, D); a tensor decides the device.
        query_labels: num_queries strings or ints, or lists of them: a row that shares any label is relevant.
        gallery_embeds: Shape (num_gallery, D); None searches the other queries.
        scores_per_chunk: Bound on the scores held at once; it changes the memory, not the result.

    Raises:
        ValueError: If shapes disagree or a row is not finite.
    """
    query, gallery, codes, relevance = prepare(query_embeds, query_labels, gallery_embeds, gallery_labels)
    rows = max(1, scores_per_chunk // (len(gallery) + 4 * relevance.most(codes)))
    ranks = []
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ gallery.T  # [rows, num_gallery]
        relevant, is_relevant = relevance(codes[start : start + rows])
        if gallery_embeds is None:
            own = torch.arange(start, start + len(scores), device=scores.device)
            scores[own - start, own] = -torch.inf
            is_relevant &= relevant != own[:, None]
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


def prepare(
    query_embeds: Rows, query_labels: Labels, gallery_embeds: Rows | None, gallery_labels: Labels | None
) -> tuple:
    """Query and gallery as fp32 on one device, the codes of the queries' labels, and what is relevant to them.

    Without a gallery the queries are searched.
    """
    query = finite_rows(query_embeds, "query")
    check_one_per_row(query_labels, query, "query")
    if gallery_embeds is None:
        gallery, gallery_labels = query, query_labels
    else:
        gallery = finite_rows(gallery_embeds, "gallery").to(query.device)
        check_one_per_row(gallery_labels, gallery, "gallery")
        check_dimensions(query, gallery)
    codes, gallery_codes = (codes.to(query.device) for codes in encode_labels(query_labels, gallery_labels))
    return query, gallery, codes, Relevance(gallery_codes, num_codes=int(max(codes.max(), gallery_codes.max())))


class Relevance:
    """Finds the gallery rows that share a label with a query.

    Args:
        gallery_codes: As of `encode_labels`, with codes up to `num_codes`.
    """

    def __init__(self, gallery_codes: torch.Tensor, num_codes: int):
        codes = gallery_codes.flatten()
        order = torch.argsort(codes, stable=True)
        self.num_gallery = len(gallery_codes)
        self.rows = order // gallery_codes.shape[1]  # Sorted by code.
        counts = torch.bincount(codes, minlength=num_codes + 1)
        self.starts = counts.cumsum(0) - counts
        self.counts = counts.clone()
        self.counts[0] = 0  # What fills up is no label.

    def most(self, query_codes: torch.Tensor) -> int:
        """Bound on the relevant rows of a query."""
        return max(1, int(self.counts[query_codes].sum(dim=1).max()))

    def __call__(self, query_codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Relevant gallery rows of each query, and which of these places are in use; both `[rows, most relevant]`."""
        counts = self.counts[query_codes]  # [rows, labels]
        ends = counts.cumsum(dim=1)
        offsets = torch.arange(self.most(query_codes), device=counts.device).repeat(len(counts), 1)
        label = torch.searchsorted(ends, offsets, right=True).clamp(max=counts.shape[1] - 1)
        firsts = (self.starts[query_codes] + counts - ends).gather(1, label)
        relevant = self.rows[(firsts + offsets).clamp(max=len(self.rows) - 1)]
        is_relevant = offsets < ends[:, -1:]
        if counts.shape[1] > 1:  # A row that shares several labels counts once.
            relevant = relevant.masked_fill(~is_relevant, self.num_gallery).sort(dim=1).values
            is_relevant = relevant < self.num_gallery
            is_relevant[:, 1:] &= relevant[:, 1:] != relevant[:, :-1]
            relevant = relevant.clamp(max=self.num_gallery - 1)
        return relevant, is_relevant


def finite_rows(embeds: Rows, name: str) -> torch.Tensor:
    """fp32 tensor of shape (rows, D) with finite values, or a ValueError that names the rows."""
    embeds = torch.as_tensor(embeds).float()
    if embeds.ndim != 2 or not len(embeds):
        raise ValueError(f"The {name} embeddings have shape {tuple(embeds.shape)}; expected (rows, D) with rows.")
    bad = torch.where(~embeds.isfinite().all(dim=1))[0].tolist()
    if bad:
        raise ValueError(f"{len(bad)} {name} embeddings are NaN or infinite, rows {bad[:10]}; leave these rows out.")
    return embeds


def check_dimensions(query: torch.Tensor, gallery: torch.Tensor) -> None:
    """Raises a ValueError unless query and gallery have rows of one size."""
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"The query has {query.shape[1]} dimensions, the gallery {gallery.shape[1]}; they must agree."
        )


def check_one_per_row(labels: Labels | None, embeds: Rows, name: str) -> None:
    """Raises a ValueError unless there is one label, or one list of labels, per embedding."""
    if labels is None or len(labels) != len(embeds):
        found = "no" if labels is None else len(labels)
        raise ValueError(f"The {name} has {len(embeds)} embeddings and {found} labels; expected one per row.")


def encode_labels(*groups: Labels) -> list[torch.Tensor]:
    """Integer codes from 1 on, equal where labels are, of each group: `[rows, most labels of a row]`; 0 fills up.

    Args:
        groups: One label per row, a string or an int, or a list or tuple of them where a row has any number.

    Raises:
        ValueError: If a group is one text, or the labels are neither all strings nor all ints.
    """
    if texts := [group for group in groups if isinstance(group, str)]:
        raise ValueError(f"The labels are the text {texts[0]!r}; give a list, with one label per row.")
    lists = [[distinct_labels(label) for label in plain(group)] for group in groups]
    flat = [label for rows in lists for labels in rows for label in labels]
    kinds = {next((kind for kind in (str, int) if isinstance(label, kind)), type(label)) for label in flat}
    if kinds - {str} and kinds - {int}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"The labels are {names}; give all strings or all ints, in query and gallery alike.")
    codes = np.unique(np.asarray(flat), return_inverse=True)[1].reshape(-1) + 1
    tables = []
    for rows in lists:
        counts = np.array([len(labels) for labels in rows])
        table = np.zeros((len(rows), max(1, counts.max(initial=0))), dtype=np.int64)
        table[np.arange(table.shape[1]) < counts[:, None]] = codes[: counts.sum()]
        codes = codes[counts.sum() :]
        tables.append(torch.from_numpy(table))
    return tables


def distinct_labels(label: Label | Sequence[Label]) -> list[Label]:
    """The labels of one row, each once."""
    label = plain(label)
    return list(dict.fromkeys(label)) if isinstance(label, (list, tuple)) else [label]


def plain(values: Any) -> Any:
    """Python's own values out of an array, a tensor or a scalar of NumPy; anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


class RecallAtK(evaluate.Metric):
    """The `evaluate` module around `best_rank`."""

    def _info(self) -> evaluate.MetricInfo:
        embeds = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[
                datasets.Features({"image_embeds": embeds, "labels": labels(datasets.Value(kind))})
                for labels in (lambda label: label, datasets.Sequence)
                for kind in ("string", "int64")  # In the other order "1984" would be read as a number.
            ],
        )

    def add_batch(self, *, labels, **columns) -> None:
        """Adds rows; `evaluate` itself would cut a label that is a float to an int without a word."""
        encode_labels(labels)
        super().add_batch(labels=plain(labels), **columns)

    def _compute(
        self,
        image_embeds,
        labels,
        *,
        gallery_embeds=None,
        gallery_labels=None,
        ks=(1, 5, 10),
        k=None,
        temperature=None,
        keep_query=None,
    ) -> dict:
        ranks = best_rank(np.asarray(image_embeds), labels, gallery_embeds, gallery_labels)
        counted = ranks[~np.isnan(ranks)]
        recalls = {f"recall@{k}": float((counted <= k).mean()) if len(counted) else float("nan") for k in ks}
        return {**recalls, "num_queries": len(counted), "num_excluded": len(ranks) - len(counted)}
