"""Mean average precision of image retrieval over the full ranking, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/retrieval_map")
    metric.compute(image_embeds=image_embeds, labels=labels)                      # each row queries the other rows
    metric.compute(image_embeds=image_embeds, labels=labels, keep_query=True)     # GPR1200: it also finds itself

A gallery row is relevant when it shares a label with the query. The scores are dot products in fp32: pass rows of
unit length for the cosine. Equal scores rank by gallery index.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import evaluate
import numpy as np
import torch


Rows = np.ndarray | torch.Tensor  # [rows, D]
Label = str | int
Labels = Sequence[Label] | Sequence[Sequence[Label]] | np.ndarray

SCORES_PER_CHUNK = 2**23  # 32 MiB of fp32
MOST_COUNTED = 24  # Relevant rows up to which comparing all scores with each is faster than sorting the scores.
WORDS_SUMMED = 250

CITATION = """@inproceedings{schall2022gpr1200,
  title = {{GPR1200}: A Benchmark for General-Purpose Content-Based Image Retrieval},
  author = {Schall, Konstantin and Barthel, Kai Uwe and Hezel, Nico and Jung, Klaus},
  booktitle = {MultiMedia Modeling},
  year = {2022},
}"""
DESCRIPTION = "Mean average precision of image retrieval over the full ranking; ties rank by gallery index."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: Label of each query, all strings or all ints; or a list of labels each, of which any counts.
    gallery_embeds, gallery_labels: What is searched; the queries themselves if left out.
    keep_query: Without a gallery, whether a query may find itself (as in GPR1200) or is left out.
    k, ks, temperature: Options of the other modules of this project, taken without use, so that
        `evaluate.combine` can hand one set of arguments to all.
Returns:
    mean_average_precision in [0, 1], num_queries that count, num_excluded that have nothing relevant to find.
"""


def average_precision(
    query_embeds: Rows,
    query_labels: Labels,
    gallery_embeds: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    keep_query: bool = False,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> np.ndarray:
    """Average precision of each query over the whole gallery: mean over its relevant rows of k / rank of the k-th.

    Args:
        query_embeds: Array or tensor of shape (num_queries, D); a tensor decides the device.
        query_labels: num_queries strings or ints, or lists of them: a row that shares any label is relevant.
        gallery_embeds: Shape (num_gallery, D); None searches the queries themselves.
        keep_query: Without a gallery, whether a query may find itself.
        scores_per_chunk: Bound on the scores held at once; it changes the memory, not the result.

    Returns:
        float64 of shape (num_queries,), NaN where nothing in the gallery is relevant.

    Raises:
        ValueError: If shapes disagree or a row is not finite.
    """
    query, gallery, codes, relevance = prepare(query_embeds, query_labels, gallery_embeds, gallery_labels)
    leave_out = gallery_embeds is None and not keep_query
    rows = max(1, scores_per_chunk // (len(gallery) + 6 * relevance.most(codes)))
    # Written over by every chunk: fresh memory of this size costs a fifth of the time.
    scores = query.new_empty(min(rows, len(query)), len(gallery))
    result = torch.full((len(query),), float("nan"), dtype=torch.float64)
    for start in range(0, len(query), rows):
        chunk = slice(start, start + rows)
        scores = scores[: len(query[chunk])]  # [rows, num_gallery]
        torch.mm(query[chunk], gallery.T, out=scores)
        relevant, is_relevant = relevance(codes[chunk])
        if leave_out:
            own = torch.arange(start, start + len(scores), device=scores.device)
            scores[own - start, own] = -torch.inf
            is_relevant &= relevant != own[:, None]
        result[chunk] = average_precision_of_ranks(rank(scores, relevant, is_relevant), is_relevant).cpu()
    return result.numpy()


def rank(scores: torch.Tensor, relevant: torch.Tensor, is_relevant: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of the columns `relevant` in each row of `scores`; equal scores rank by column."""
    wanted = scores.gather(1, relevant)
    counted = scores.device.type == "cpu" and relevant.shape[1] <= MOST_COUNTED
    above, not_below = count_by_comparing(scores, wanted) if counted else count_by_sorting(scores, wanted)
    ranks = above + 1
    tied = torch.where(((not_below - above > 1) & is_relevant).any(dim=1))[0]
    if len(tied):  # Rare, so only these rows pay for a stable sort of the columns.
        columns = scores[tied].argsort(dim=1, descending=True, stable=True)
        places = torch.empty_like(columns)
        places.scatter_(1, columns, torch.arange(1, columns.shape[1] + 1, device=columns.device).expand_as(columns))
        ranks[tied] = places.gather(1, relevant[tied])
    return ranks


def count_by_sorting(scores: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many scores of a row are above each wanted one, and how many not below it; both of the shape of `wanted`.

    On a CPU NumPy sorts, many times as fast as torch.
    """
    if scores.device.type != "cpu":
        ascending = scores.sort(dim=1).values
    else:
        ascending = scores.clone()
        in_threads(lambda part: part.sort(axis=1), ascending.numpy())
    num_scores = scores.shape[1]
    return num_scores - torch.searchsorted(ascending, wanted, right=True), num_scores - torch.searchsorted(
        ascending, wanted
    )


def count_by_comparing(scores: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `count_by_sorting`, by a pass over the scores for each wanted one: faster for few."""
    counts = np.empty((len(scores), 2, wanted.shape[1]), dtype=np.int64)

    def count(scores: np.ndarray, wanted: np.ndarray, counts: np.ndarray) -> None:
        # Bytes of 0 and 1 in words of eight; at most 255 words are summed, so that no byte overflows.
        width = -(-scores.shape[1] // (8 * WORDS_SUMMED)) * 8 * WORDS_SUMMED
        is_above = np.zeros((wanted.shape[1], width), dtype=bool)
        words = is_above.view(np.uint64).reshape(len(is_above), -1, WORDS_SUMMED)
        for row, row_wanted, row_counts in zip(scores, wanted[:, :, None], counts, strict=True):
            for compare, count in zip((np.greater, np.greater_equal), row_counts, strict=True):
                compare(row, row_wanted, out=is_above[:, : len(row)])
                np.add.reduce(words, axis=2).view(np.uint8).sum(axis=1, out=count)

    in_threads(count, scores.numpy(), wanted.numpy(), counts)
    return torch.from_numpy(counts[:, 0]), torch.from_numpy(counts[:, 1])


def in_threads(function: Callable[..., None], *arrays: np.ndarray) -> None:
    """Calls a function with the parts of arrays that have the same rows, one part for each of torch's threads."""
    parts = zip(*(np.array_split(array, torch.get_num_threads()) for array in arrays), strict=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda part: function(*part), parts))


def average_precision_of_ranks(ranks: torch.Tensor, is_relevant: torch.Tensor) -> torch.Tensor:
    """Mean of k / rank over the relevant columns, float64 of shape (rows,); NaN for a row that has none."""
    ascending = ranks.masked_fill(~is_relevant, torch.iinfo(ranks.dtype).max).sort(dim=1).values
    found = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
    num_relevant = is_relevant.sum(dim=1)
    precisions = (found / ascending).masked_fill(found > num_relevant[:, None], 0.0)
    return precisions.sum(dim=1) / num_relevant


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


class RetrievalMap(evaluate.Metric):
    """The `evaluate` module around `average_precision`."""

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
        keep_query=False,
        k=None,
        ks=None,
        temperature=None,
    ) -> dict:
        rows = (np.asarray(image_embeds), labels, gallery_embeds, gallery_labels)
        precisions = average_precision(*rows, keep_query=keep_query)
        counted = precisions[~np.isnan(precisions)]
        return {
            "mean_average_precision": float(counted.mean()) if len(counted) else float("nan"),
            "num_queries": len(counted),
            "num_excluded": len(precisions) - len(counted),
        }
