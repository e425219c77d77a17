"""Image retrieval: mean average precision and nearest-neighbor accuracy on any labeled images."""

from typing import Any

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.label_sets import is_alone, labels_of
from evaluation.labeled_images import LabeledImages
from metrics.knn_accuracy.knn_accuracy import knn_correct
from metrics.retrieval_map.retrieval_map import average_precision


def evaluate_retrieval(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Embeds query and gallery, and ranks."""
    query_embedded = embedder(query)
    gallery_embedded = embedder(gallery) if gallery else None
    query_embeds = query_embedded.image_embeds.to(embedder.encoder.device)
    query_labels = embedded_labels(query, query_embedded)
    if benchmark.one_query_per_class:
        firsts, others = split_queries(query_labels)
        scores = one_query_per_class(query_embeds, query_labels)
        return Scores(scores, query=query_embedded.only(firsts), gallery=query_embedded.only(others))
    by_query = retrieval(
        query_embeds,
        query_labels,
        gallery_embedded and gallery_embedded.image_embeds,
        gallery and embedded_labels(gallery, gallery_embedded),
        keep_query=benchmark.keep_query,
    )
    return Scores(by_query, query=query_embedded, gallery=gallery_embedded)


def one_query_per_class(embeds: torch.Tensor, labels: list[Any]) -> dict[str, np.ndarray]:
    """The first image of each class searches all the other images; how ImageNet's validation set is made a test."""
    firsts, others = split_queries(labels)
    groups = [[labels[row] for row in rows] for rows in (firsts, others)]
    return retrieval(embeds[firsts], groups[0], embeds[others], groups[1])


def split_queries(labels: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first image of each class, in the order of the classes, and all other rows."""
    found = {one: row for row, label in reversed(list(enumerate(labels))) for one in labels_of(label)}
    firsts = np.array(list(dict.fromkeys(found[one] for one in sorted(found))))
    others = np.setdiff1d(np.arange(len(labels)), firsts)
    if not len(others):
        raise ValueError("Every class has one image; one_query_per_class needs classes with two.")
    return firsts, others


def retrieval(
    query_embeds: torch.Tensor,
    query_labels: list[Any],
    gallery_embeds: torch.Tensor | None = None,
    gallery_labels: list[Any] | None = None,
    *,
    keep_query: bool = False,
) -> dict[str, np.ndarray]:
    """Scores of each query, float64 of shape (num_queries,); NaN where nothing relevant can be found.

    `mAP`: average precision over the full ranking; relevant are the images that share a label with the query.
    `1-NN`: whether the nearest image shares a label.

    Args:
        query_embeds: Unit-length rows of shape (num_queries, D).
        gallery_embeds: Unit-length rows that are searched; None searches the queries themselves.
        keep_query: Without a gallery, whether the ranking behind `mAP` holds the query itself, as in GPR1200's
            protocol. `1-NN` never counts it.
    """
    precisions = average_precision(query_embeds, query_labels, gallery_embeds, gallery_labels, keep_query=keep_query)
    correct = knn_correct(query_embeds, query_labels, gallery_embeds, gallery_labels, k=1).astype(np.float64)
    correct[is_alone(query_labels) if gallery_labels is None else np.isnan(precisions)] = np.nan
    return {"mAP": precisions, "1-NN": correct}
