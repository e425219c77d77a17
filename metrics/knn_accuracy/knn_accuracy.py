"""Accuracy of the k nearest neighbors, by majority or weighted by similarity, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/knn_accuracy")
    metric.compute(image_embeds=image_embeds, labels=labels, k=1)                 # each row asks the other rows
    metric.compute(image_embeds=query, labels=query_labels, gallery_embeds=train, gallery_labels=train_labels, k=20)

The scores are dot products in fp32: pass rows of unit length for the cosine. Equal scores rank by gallery index, and
of labels with equal votes the one with the nearest neighbor wins.
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
GALLERY_PER_CHUNK = 2**17

CITATION = """@inproceedings{wu2018unsupervised,
  title = {Unsupervised Feature Learning via Non-Parametric Instance Discrimination},
  author = {Wu, Zhirong and Xiong, Yuanjun and Yu, Stella X. and Lin, Dahua},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018},
}"""
DESCRIPTION = "Accuracy of k nearest neighbors; ties rank by gallery index, tied votes by the nearest neighbor."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: Label of each query, all strings or all ints; or a list of labels each, of which any counts.
    gallery_embeds, gallery_labels: What is searched; the queries themselves, each without itself, if left out.
    k: Neighbors that vote.
    temperature: Votes weigh exp(similarity / temperature); None gives each neighbor one vote.
    ks, keep_query: Options of the other modules of this project, taken without use, so that
        `evaluate.combine` can hand one set of arguments to all.
Returns:
    accuracy in [0, 1].
"""


def knn_correct(
    query_embeds: Rows,
    query_labels: Labels,
    gallery_embeds: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    k: int = 1,
    temperature: float | None = None,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> np.ndarray:
    """Whether the vote of its k nearest neighbors names a label of each query, bool of shape (num_queries,).

    Args:
        query_embeds: Array or tensor of shape (num_queries, D); a tensor decides the device.
        query_labels: num_queries strings or ints, or lists of them, any of which is right.
        gallery_embeds: Shape (num_gallery, D); None asks the other queries.
        k: Neighbors that vote; at most the size of the gallery.
        temperature: Votes weigh exp(score / temperature); None gives each neighbor one vote.

    Raises:
        ValueError: If shapes or kinds of labels disagree, a row is not finite, or k or temperature is out of range.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0, or None for one vote each.")
    check_one_per_row(query_labels, query_embeds, "query")
    if gallery_embeds is None:
        gallery_labels = query_labels
    else:
        check_one_per_row(gallery_labels, gallery_embeds, "gallery")
    query_codes, gallery_codes = encode_labels(query_labels, gallery_labels)
    scores, neighbors = nearest(query_embeds, gallery_embeds, k=k, scores_per_chunk=scores_per_chunk)
    return is_named(query_codes, vote(scores.cpu(), gallery_codes[neighbors.cpu()], temperature)).numpy()


def is_named(codes: torch.Tensor, winners: torch.Tensor) -> torch.Tensor:
    """Whether one of the labels of each row is among the winners of `vote`, bool of shape (rows,)."""
    return ((codes[:, :, None] == winners[:, None]) & (winners > 0)[:, None]).any(dim=2).any(dim=1)


def vote(scores: torch.Tensor, codes: torch.Tensor, temperature: float | None = None) -> torch.Tensor:
    """The label with most votes in each row of neighbors, int64 of shape (rows, most labels); 0 fills up.

    A neighbor votes for each of its labels. Of labels with equal votes the nearest neighbor decides, and all of its
    labels that have so many win: without anything else to tell them apart, any of them counts.

    Args:
        scores: Shape (rows, k), nearest first.
        codes: Labels of the neighbors, of shape (rows, k, most labels); 0 is none.
    """
    # Relative to the nearest one, or a small temperature would overflow.
    scores = scores.double()
    weights = torch.ones_like(scores) if temperature is None else ((scores - scores[:, :1]) / temperature).exp()
    weights = weights.repeat_interleave(codes.shape[2], dim=1)  # [rows, k * labels]
    ordered, order = codes.flatten(1).sort(dim=1, stable=True)
    is_first = ordered.diff(dim=1, prepend=ordered.new_full((len(ordered), 1), -1)) != 0
    groups = is_first.long().cumsum(dim=1) - 1
    votes = torch.zeros_like(weights).scatter_add(1, groups, weights.gather(1, order)).gather(1, groups)
    votes[ordered == 0] = -1
    votes = torch.empty_like(votes).scatter(1, order, votes)
    is_best = (votes == votes.max(dim=1, keepdim=True).values).view(codes.shape)
    decides = is_best.any(dim=2).int().argmax(dim=1)  # The first of equal ones.
    rows = torch.arange(len(codes), device=codes.device)
    return codes[rows, decides] * is_best[rows, decides]


def nearest(
    query_embeds: Rows, gallery_embeds: Rows | None = None, *, k: int = 1, scores_per_chunk: int = SCORES_PER_CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 scores and gallery indices of the k nearest rows, shape (num_queries, k), by score, then by index.

    Without a gallery the queries are searched, each leaving itself out.
    """
    query = finite_rows(query_embeds, "query")
    gallery = query if gallery_embeds is None else finite_rows(gallery_embeds, "gallery").to(query.device)
    check_dimensions(query, gallery)
    available = len(gallery) - (gallery_embeds is None)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}; it must be between 1 and {available}, the rows that a query can find.")
    columns = min(len(gallery), GALLERY_PER_CHUNK)
    rows = max(1, scores_per_chunk // columns)
    chunks = [
        nearest_of_chunk(query, gallery, start, k=k, columns=columns, leave_out=gallery_embeds is None, rows=rows)
        for start in range(0, len(query), rows)
    ]
    return torch.cat([scores for scores, _ in chunks]), torch.cat([indices for _, indices in chunks])


def nearest_of_chunk(
    query: torch.Tensor, gallery: torch.Tensor, start: int, *, k: int, columns: int, leave_out: bool, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` for `rows` queries from `start` on, over the gallery `columns` at a time."""
    chunk = query[start : start + rows]
    own = torch.arange(start, start + len(chunk), device=query.device)
    best_scores = query.new_empty(len(chunk), 0)
    best_indices = own.new_empty(len(chunk), 0)
    for first in range(0, len(gallery), columns):
        scores = chunk @ gallery[first : first + columns].T  # [rows, columns]
        inside = leave_out & (own >= first) & (own < first + scores.shape[1])
        scores[inside, own[inside] - first] = -torch.inf
        indices = torch.arange(first, first + scores.shape[1], device=query.device).expand_as(scores)
        merged_scores = torch.cat([best_scores, scores], dim=1)  # Lower indices first.
        places = stable_topk(merged_scores, min(k, merged_scores.shape[1]))
        best_scores = merged_scores.gather(1, places)
        best_indices = torch.cat([best_indices, indices], dim=1).gather(1, places)
    return best_scores, best_indices


def stable_topk(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the k highest scores of each row, by score and then by column, which `torch.topk` leaves open."""
    values, places = scores.topk(k, dim=1)
    # topk may keep any of the columns that tie with the last one kept; these rows are sorted in full.
    last = values[:, -1:]
    tied = torch.where((scores == last).sum(dim=1) > (values == last).sum(dim=1))[0]
    if len(tied):
        places[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    places = places.sort(dim=1).values
    return places.gather(1, scores.gather(1, places).argsort(dim=1, descending=True, stable=True))


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


class KnnAccuracy(evaluate.Metric):
    """The `evaluate` module around `knn_correct`."""

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
        k=1,
        temperature=None,
        ks=None,
        keep_query=None,
    ) -> dict:
        rows = (np.asarray(image_embeds), labels, gallery_embeds, gallery_labels)
        return {"accuracy": float(knn_correct(*rows, k=k, temperature=temperature).mean())}
