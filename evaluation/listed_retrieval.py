"""Image retrieval by lists of what is relevant to each query, by two protocols.

`listed`: all corpus images that a query's list does not name as relevant are wrong. mAP over the full ranking; R@1;
and mMP@5, the precision among the first min(5, number of relevant images), as the Universal Image Embedding
benchmark (UnED) has it. `revisited`: the protocol of Oxford and Paris, revisited: images that a list does not name
at all are junk, which is taken out of the ranking; mAP by the trapezoid rule and mP@k among the first min(k, rank
of the last relevant image), as in the official evaluation.

Sources: https://huggingface.co/papers/2309.01858 (UnED), https://huggingface.co/papers/1803.11285 (revisited).
"""

import logging

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores
from evaluation.embed import Embedded
from evaluation.labeled_images import LabeledImages
from evaluation.listed_sets import read_lists
from metrics.retrieval_map.retrieval_map import rank


logger = logging.getLogger(__name__)

PROTOCOLS = ("listed", "revisited")
SCORES_PER_CHUNK = 2**23  # 32 MiB of fp32


def evaluate_listed_retrieval(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Ranks the corpus for each query. A corpus image that is the same file as the query is left out for it."""
    assert gallery is not None, "Benchmark.open gives the corpus."
    if benchmark.protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {benchmark.protocol!r}; it must be {' or '.join(map(repr, PROTOCOLS))}.")
    lists = read_lists(benchmark.data, revision=benchmark.revision, split=benchmark.split)
    query_embedded, gallery_embedded = embedder(query), embedder(gallery)
    corpus = {gallery.row_ids[row]: place for place, row in enumerate(gallery_embedded.rows)}
    query_ids = [query.row_ids[row] for row in query_embedded.rows]
    relevant = [places(lists.relevant.get(query_id, ()), corpus) for query_id in query_ids]
    left_out = same_files(query_embedded, gallery_embedded)
    if benchmark.protocol == "revisited":
        judged = [places(lists.judged.get(query_id, ()), corpus) for query_id in query_ids]
        everything = np.arange(len(corpus))
        left_out = [np.union1d(own, np.setdiff1d(everything, few)) for own, few in zip(left_out, judged, strict=True)]
    ranks = relevant_ranks(
        query_embedded.image_embeds.to(embedder.encoder.device), gallery_embedded.image_embeds, relevant, left_out
    )
    score = revisited_scores if benchmark.protocol == "revisited" else listed_scores
    by_query = [score(of_query) if len(of_query) else None for of_query in ranks]
    if not any(by_query):
        raise ValueError(f"The lists of {benchmark.data} name no image of its corpus.")
    names = next(filter(None, by_query))
    columns = {name: np.array([np.nan if row is None else row[name] for row in by_query]) for name in names}
    return Scores(columns, query=query_embedded, gallery=gallery_embedded, counts={"corpus": len(corpus)})


def places(ids: set[str] | tuple[()], corpus: dict[str, int]) -> np.ndarray:
    """Places of corpus images, those that cannot be read left out."""
    return np.array(sorted(corpus[one] for one in ids if one in corpus), dtype=np.int64)


def same_files(query: Embedded, gallery: Embedded) -> list[np.ndarray]:
    """For each query the places of the corpus images with the same bytes."""
    copies: dict[int, list[int]] = {}
    for place, image_hash in enumerate(gallery.image_hashes):
        copies.setdefault(image_hash, []).append(place)
    return [np.array(copies.get(image_hash, []), dtype=np.int64) for image_hash in query.image_hashes]


def relevant_ranks(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    relevant: list[np.ndarray],
    left_out: list[np.ndarray],
    *,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> list[np.ndarray]:
    """Ranks, from 1 and ascending, of each query's relevant images among those that are not left out.

    Args:
        query_embeds: Unit-length rows of shape (num_queries, D).
        gallery_embeds: Unit-length rows of shape (num_gallery, D).
        relevant, left_out: Gallery rows of each query; what is left out is not relevant.
    """
    gallery_embeds = gallery_embeds.to(query_embeds.device)
    relevant = [np.setdiff1d(found, out) for found, out in zip(relevant, left_out, strict=True)]
    rows = max(1, scores_per_chunk // len(gallery_embeds))
    ranks: list[np.ndarray] = []
    for start in range(0, len(query_embeds), rows):
        scores = query_embeds[start : start + rows] @ gallery_embeds.T
        for line, out in zip(scores, left_out[start : start + rows], strict=True):
            line[torch.from_numpy(out).to(line.device)] = -torch.inf
        chunk = relevant[start : start + rows]
        counts = torch.tensor([len(found) for found in chunk], device=scores.device)
        table = torch.zeros(len(chunk), max(1, int(counts.max())), dtype=torch.int64)
        for line, found in zip(table, chunk, strict=True):
            line[: len(found)] = torch.from_numpy(found)
        is_relevant = torch.arange(table.shape[1], device=scores.device) < counts[:, None]
        found_at = rank(scores, table.to(scores.device), is_relevant).cpu().numpy()
        ranks += [np.sort(line[: len(found)]) for line, found in zip(found_at, chunk, strict=True)]
    return ranks


def listed_scores(ranks: np.ndarray) -> dict[str, float]:
    """Scores of one query out of the ascending ranks of its relevant images."""
    found = np.arange(1, len(ranks) + 1)
    first = min(5, len(ranks))
    return {"mAP": (found / ranks).mean(), "R@1": float(ranks[0] == 1), "mMP@5": (ranks <= first).sum() / first}


def revisited_scores(ranks: np.ndarray) -> dict[str, float]:
    """As `listed_scores`, by the official evaluation of Oxford and Paris: trapezoids under the precision curve."""
    found = np.arange(1, len(ranks) + 1)
    before = np.where(ranks == 1, 1.0, (found - 1) / np.maximum(ranks - 1, 1))
    scores = {"mAP": ((before + found / ranks) / 2).mean()}
    for k in (1, 5, 10):
        first = min(k, int(ranks[-1]))
        scores[f"mP@{k}"] = (ranks <= first).sum() / first
    return scores
