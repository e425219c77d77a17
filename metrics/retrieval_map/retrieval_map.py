"""Mean average precision of image retrieval over the full ranking, in chunks, on a CPU or a GPU.

    import evaluate
    metric = evaluate.load("metrics/retrieval_map")
    metric.compute(image_embeds=image_embeds, labels=labels)                      # each row queries the other rows
    metric.compute(image_embeds=image_embeds, labels=labels, keep_query=True)     # GPR1200: it also finds itself

The scores are dot products in fp32: pass rows of unit length for the cosine. Equal scores rank by gallery index.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import evaluate
import numpy as np
import torch


Rows = np.ndarray | torch.Tensor  # [rows, D]
Labels = Sequence[str] | Sequence[int] | np.ndarray

SCORES_PER_CHUNK = 2**23  # 32 MiB of fp32

DESCRIPTION = "Mean average precision of image retrieval over the full ranking; ties rank by gallery index."
INPUTS = """
Args:
    image_embeds: Query rows of shape (num_queries, D), of unit length for the cosine.
    labels: Class of each query, all strings or all ints.
    gallery_embeds, gallery_labels: What is searched; the queries themselves if left out.
    keep_query: Without a gallery, whether a query may find itself (as in GPR1200) or is left out.
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
        query_labels: num_queries strings or ints.
        gallery_embeds: Shape (num_gallery, D); None searches the queries themselves.
        keep_query: Without a gallery, whether a query may find itself.
        scores_per_chunk: Bound on the scores held at once; it changes the memory, not the result.

    Returns:
        float64 of shape (num_queries,), NaN where nothing in the gallery is relevant.

    Raises:
        ValueError: If shapes disagree or a row is not finite.
    """
    query, gallery, query_codes, gallery_codes = prepare_rows(
        query_embeds, query_labels, gallery_embeds, gallery_labels
    )
    leave_out = gallery_embeds is None and not keep_query
    order = torch.argsort(gallery_codes, stable=True)
    num_codes = int(max(query_codes.max(), gallery_codes.max())) + 1
    counts = torch.bincount(gallery_codes, minlength=num_codes)
    starts = counts.cumsum(0) - counts
    rows = max(1, scores_per_chunk // (len(gallery) + 6 * int(counts.max())))
    # Written over by every chunk: fresh memory of this size costs a fifth of the time.
    buffers = query.new_empty(2, min(rows, len(query)), len(gallery))
    result = torch.full((len(query),), float("nan"), dtype=torch.float64)
    for start in range(0, len(query), rows):
        chunk = slice(start, start + rows)
        codes = query_codes[chunk]
        scores, spare = buffers[:, : len(codes)]  # [rows, num_gallery]
        torch.mm(query[chunk], gallery.T, out=scores)
        own = torch.arange(start, start + len(scores), device=scores.device)
        if leave_out:
            scores[own - start, own] = -torch.inf
        offsets = torch.arange(int(counts[codes].max()), device=scores.device)
        is_relevant = offsets < counts[codes, None]  # [rows, most relevant]
        relevant = order[(starts[codes, None] + offsets).clamp(max=len(order) - 1)]
        if leave_out:
            is_relevant &= relevant != own[:, None]
        result[chunk] = average_precision_of_ranks(rank(scores, relevant, is_relevant, spare=spare), is_relevant).cpu()
    return result.numpy()


def rank(
    scores: torch.Tensor, relevant: torch.Tensor, is_relevant: torch.Tensor, *, spare: torch.Tensor
) -> torch.Tensor:
    """Rank, from 1, of the columns `relevant` in each row of `scores`; equal scores rank by column.

    Args:
        spare: Memory of the shape of `scores` for the sorted rows.
    """
    wanted = scores.gather(1, relevant)
    ascending = sort_rows(scores, spare)
    above = scores.shape[1] - torch.searchsorted(ascending, wanted, right=True)
    not_below = scores.shape[1] - torch.searchsorted(ascending, wanted)
    ranks = above + 1
    tied = torch.where(((not_below - above > 1) & is_relevant).any(dim=1))[0]
    if len(tied):  # Rare, so only these rows pay for a stable sort of the columns.
        columns = scores[tied].argsort(dim=1, descending=True, stable=True)
        places = torch.empty_like(columns)
        places.scatter_(1, columns, torch.arange(1, columns.shape[1] + 1, device=columns.device).expand_as(columns))
        ranks[tied] = places.gather(1, relevant[tied])
    return ranks


def sort_rows(scores: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """Each row in ascending order, in `spare`; NumPy's vectorised sort is many times as fast as torch's on a CPU."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    spare.copy_(scores)
    parts = np.array_split(spare.numpy(), torch.get_num_threads())
    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(lambda part: part.sort(axis=1), parts))
    return spare


def average_precision_of_ranks(ranks: torch.Tensor, is_relevant: torch.Tensor) -> torch.Tensor:
    """Mean of k / rank over the relevant columns, float64 of shape (rows,); NaN for a row that has none."""
    ascending = ranks.masked_fill(~is_relevant, torch.iinfo(ranks.dtype).max).sort(dim=1).values
    found = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=torch.float64)
    num_relevant = is_relevant.sum(dim=1)
    precisions = (found / ascending).masked_fill(found > num_relevant[:, None], 0.0)
    return precisions.sum(dim=1) / num_relevant


def prepare_rows(query_embeds, query_labels, gallery_embeds, gallery_labels) -> tuple[torch.Tensor, ...]:
    """fp32 query and gallery on one device, and their labels as integer codes; checks shapes and values."""
    query = finite_rows(query_embeds, query_labels, "query")
    if gallery_embeds is None:
        codes = encode_labels(query_labels).to(query.device)
        return query, query, codes, codes
    gallery = finite_rows(gallery_embeds, gallery_labels, "gallery").to(query.device)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"The query has {query.shape[1]} dimensions, the gallery {gallery.shape[1]}; they must agree."
        )
    codes = encode_labels(query_labels, gallery_labels).to(query.device)
    return query, gallery, codes[: len(query)], codes[len(query) :]


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


class RetrievalMap(evaluate.Metric):
    """The `evaluate` module around `average_precision`."""

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

    def _compute(self, image_embeds, labels, *, gallery_embeds=None, gallery_labels=None, keep_query=False) -> dict:
        precisions = average_precision(
            np.asarray(image_embeds), labels, gallery_embeds, gallery_labels, keep_query=keep_query
        )
        counted = ~np.isnan(precisions)
        value = float(precisions[counted].mean()) if counted.any() else float("nan")
        return {
            "mean_average_precision": value,
            "num_queries": int(counted.sum()),
            "num_excluded": int((~counted).sum()),
        }
