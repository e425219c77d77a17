"""k-nearest-neighbor classification: train images vote on the class of each test image."""

import logging

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.labeled_images import LabeledImages
from metrics.knn_accuracy.knn_accuracy import encode_labels, is_named, nearest, vote


logger = logging.getLogger(__name__)


def evaluate_knn(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Classifies the query images by the gallery's, or by each other; all values of k share one search."""
    query_embedded = embedder(query)
    gallery_embedded = embedder(gallery) if gallery else None
    by_query = knn(
        query_embedded.image_embeds.to(embedder.encoder.device),
        embedded_labels(query, query_embedded),
        gallery_embedded and gallery_embedded.image_embeds,
        gallery and embedded_labels(gallery, gallery_embedded),
        ks=benchmark.ks,
        temperature=benchmark.temperature,
    )
    return Scores(by_query, query=query_embedded, gallery=gallery_embedded)


def knn(
    query_embeds: torch.Tensor,
    query_labels: list,
    gallery_embeds: torch.Tensor | None = None,
    gallery_labels: list | None = None,
    *,
    ks: list[int],
    temperature: float,
) -> dict[str, np.ndarray]:
    """Whether each query is classified rightly, 0.0 or 1.0 of shape (num_queries,), for each k and way of voting.

    A neighbor votes for each of its labels, and a winning label is right if it is one of the query's. Of labels with
    equal votes those of the nearest neighbor that has any win; with one neighbor, all of its labels.

    Args:
        query_embeds: Unit-length rows of shape (num_queries, D).
        gallery_embeds: Unit-length rows that vote; None lets the other queries vote.
        ks: Neighbors that vote; those beyond the gallery are left out and logged.
        temperature: Weighted votes count exp(similarity / temperature), as in ImageNet's protocol with 0.07.

    Raises:
        ValueError: If no k fits the gallery.
    """
    available = len(query_embeds) - 1 if gallery_embeds is None else len(gallery_embeds)
    fitting = [k for k in sorted(ks) if 1 <= k <= available]
    if not fitting:
        raise ValueError(f"No k of {ks} fits a gallery of {available} images.")
    if len(fitting) < len(ks):
        logger.warning("only k up to %d fit a gallery of %d images", fitting[-1], available)
    scores, neighbors = nearest(query_embeds, gallery_embeds, k=fitting[-1])
    scores = scores.cpu()
    right, codes = encode_labels(query_labels, query_labels if gallery_labels is None else gallery_labels)
    codes = codes[neighbors.cpu()]  # [queries, k, labels]
    results = {}
    for k in fitting:
        for name, weight in ((f"k={k}", None), (f"k={k} weighted", temperature))[: 1 + (k > 1)]:
            results[name] = is_named(right, vote(scores[:, :k], codes[:, :k], weight)).double().numpy()
    return results
