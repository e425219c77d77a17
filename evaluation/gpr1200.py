"""GPR1200, to the letter: 1,200 categories of 10 images from six domains; every image queries all 12,000.

The query is kept in its own ranking, scores are dot products of unit-length embeddings, average precision is taken
over the full ranking. Source: https://github.com/Visual-Computing/GPR1200 (eval/, at bfd5a40).
"""

import logging
import re

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.labeled_images import LabeledImages
from metrics.retrieval_map.retrieval_map import average_precision


logger = logging.getLogger(__name__)

# 200 categories each, in the order of their numbers; the names are those that the official script prints.
DOMAINS = ("Landmarks", "iNat", "IMSketch", "Instre", "SOP", "faces")
CATEGORIES_PER_DOMAIN = 200
NUM_IMAGES = 12000
FILE_NAME = re.compile(r"(\d+)_.+")


def evaluate_gpr1200(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Embeds and ranks GPR1200; without a label column the file names give the categories, which become the labels."""
    if benchmark.label_column:
        query.labels = [int(query.label_names.get(label, label)) for label in query.labels]
    else:
        query.labels = categories_of_files(query.row_ids)
    if len(query) != NUM_IMAGES:
        logger.warning("GPR1200 has 12000 images, this dataset %d: the value is not comparable", len(query))
    embedded = embedder(query)
    embeds = embedded.image_embeds.to(embedder.encoder.device)
    return Scores(gpr1200(embeds, embedded_labels(query, embedded)), query=embedded)


def categories_of_files(names: list[str]) -> list[int]:
    """`"812_abc.jpg"` belongs to category 812."""
    matches = [FILE_NAME.fullmatch(name) for name in names]
    if None in matches:
        wrong = names[matches.index(None)]
        raise ValueError(f"{wrong!r} is not a file name of GPR1200, like 812_abc.jpg; else give --label_column.")
    return [int(match[1]) for match in matches]


def gpr1200(image_embeds: torch.Tensor, categories: list[int]) -> dict[str, np.ndarray]:
    """Average precision of each query, under `mAP` for all and under each domain for its own (NaN elsewhere).

    Args:
        image_embeds: Unit-length rows of shape (num_images, D).
        categories: Number of each image's category, 0 to 1199; it alone decides the domain.

    Raises:
        ValueError: If a category is outside 0 to 1199.
    """
    outside = [category for category in categories if not 0 <= category < len(DOMAINS) * CATEGORIES_PER_DOMAIN]
    if outside:
        raise ValueError(f"Category {outside[0]} is outside 0 to 1199; the labels are not GPR1200's categories.")
    precisions = average_precision(image_embeds, categories, keep_query=True)
    domains = np.asarray(categories) // CATEGORIES_PER_DOMAIN
    by_domain = {name: np.where(domains == number, precisions, np.nan) for number, name in enumerate(DOMAINS)}
    return {"mAP": precisions, **by_domain}
