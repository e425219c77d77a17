"""Accuracy of the k nearest neighbors, by majority or weighted by similarity, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/knn_accuracy")
    metric.compute(image_embeds=image_embeds, labels=labels, k=1)                 # each row asks the other rows
    metric.compute(image_embeds=query, labels=query_labels, gallery_embeds=train, gallery_labels=train_labels, k=20)

The scores are dot products in fp32: pass rows of unit length for the cosine. Equal scores rank by gallery index, and
of classes with equal votes the one with the nearest neighbor wins.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch


Rows = np.ndarray | torch.Tensor  # [rows, D]
Labels = Sequence[str] | Sequence[int] | np.ndarray

SCORES_PER_CHUNK = 2**24  # 64 MiB of fp32
GALLERY_PER_CHUNK = 2**17

DESCRIPTION = "Accuracy of k nearest neighbors; ties rank by gallery index, tied votes by the nearest neighbor."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: Class of each query, all strings or all ints.
    gallery_embeds, gallery_labels: What is searched; the queries themselves, each without itself, if left out.
    k: Neighbors that vote.
    temperature: Votes weigh exp(similarity / temperature); None gives each neighbor one vote.
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
    """Whether the vote of its k nearest neighbors names each query's class, bool of shape (num_queries,).

    Args:
        query_embeds: Array or tensor of shape (num_queries, D); a tensor decides the device.
        gallery_embeds: Shape (num_gallery, D); None asks the other queries.
        k: Neighbors that vote; at most the size of the gallery.
        temperature: Votes weigh exp(score / temperature); None gives each neighbor one vote.

    Raises:
        ValueError: If shapes or kinds of labels disagree, a row is not finite, or k or temperature is out of range.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0, or None for one vote each.")
    query_labels = one_per_row(query_labels, query_embeds, "query")
    labels = query_labels if gallery_embeds is None else one_per_row(gallery_labels, gallery_embeds, "gallery")
    if (labels.dtype.kind in "US") != (query_labels.dtype.kind in "US"):
        raise ValueError("The query and gallery labels mix strings and numbers; give both in the same form.")
    scores, neighbors = nearest(query_embeds, gallery_embeds, k=k, scores_per_chunk=scores_per_chunk)
    return vote(scores.cpu(), labels[neighbors.cpu().numpy()], temperature) == query_labels


def one_per_row(labels: Labels | None, embeds: Rows, name: str) -> np.ndarray:
    """The labels as an array; raises a ValueError unless there is one per embedding."""
    if labels is None or len(labels) != len(embeds):
        found = "no" if labels is None else len(labels)
        raise ValueError(f"The {name} has {len(embeds)} embeddings and {found} labels; expected one per row.")
    return np.asarray(labels)


def vote(scores: torch.Tensor, labels: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """The winning label of each row of neighbors, nearest first; the nearest neighbor decides between equal votes.

    Args:
        scores: Shape (rows, k), descending.
        labels: Shape (rows, k).
    """
    winners, rows = [], max(1, SCORES_PER_CHUNK // labels.shape[1] ** 2)
    for start in range(0, len(labels), rows):
        names = labels[start : start + rows]
        chunk = scores[start : start + rows].double()
        # Relative to the nearest one, or a small temperature would overflow.
        weights = torch.ones_like(chunk) if temperature is None else ((chunk - chunk[:, :1]) / temperature).exp()
        is_same = names[:, :, None] == names[:, None, :]  # [rows, k, k]
        votes = (is_same * weights.numpy()[:, None, :]).sum(axis=2)
        winners.append(np.take_along_axis(names, votes.argmax(axis=1)[:, None], axis=1)[:, 0])
    return np.concatenate(winners)


def nearest(
    query_embeds, gallery_embeds=None, *, k: int = 1, scores_per_chunk: int = SCORES_PER_CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 scores and gallery indices of the k nearest rows, shape (num_queries, k), by score, then by index.

    Without a gallery the queries are searched, each leaving itself out.
    """
    query = finite_rows(query_embeds, "query")
    gallery = query if gallery_embeds is None else finite_rows(gallery_embeds, "gallery").to(query.device)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"The query has {query.shape[1]} dimensions, the gallery {gallery.shape[1]}; they must agree."
        )
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


def finite_rows(embeds, name: str) -> torch.Tensor:
    """fp32 tensor of shape (rows, D) with finite values, or a ValueError that names the rows."""
    embeds = torch.as_tensor(embeds).float()
    if embeds.ndim != 2 or not len(embeds):
        raise ValueError(f"The {name} embeddings have shape {tuple(embeds.shape)}; expected (rows, D) with rows.")
    bad = torch.where(~embeds.isfinite().all(dim=1))[0].tolist()
    if bad:
        raise ValueError(f"{len(bad)} {name} embeddings are NaN or infinite, rows {bad[:10]}; leave these rows out.")
    return embeds


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


class KnnAccuracy(evaluate.Metric):
    """The `evaluate` module around `knn_correct`."""

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

    def _compute(
        self, image_embeds, labels, *, gallery_embeds=None, gallery_labels=None, k=1, temperature=None
    ) -> dict:
        correct = knn_correct(
            np.asarray(image_embeds), labels, gallery_embeds, gallery_labels, k=k, temperature=temperature
        )
        return {"accuracy": float(correct.mean())}
