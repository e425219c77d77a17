"""Image-text retrieval: recall at 1, 5 and 10 from images to their texts and from texts to their images."""

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores
from evaluation.labeled_images import LabeledImages
from metrics.recall_at_k.recall_at_k import best_rank, recall


KS = (1, 5, 10)


def evaluate_image_text_retrieval(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Ranks texts for each image and images for each text; a row may hold one text or a list of them."""
    embedded = embedder(query)
    texts, owners = texts_of_rows(query.column(benchmark.text_column), embedded.rows)
    if not texts:
        raise ValueError(f"Column {benchmark.text_column!r} of {query.name} holds no text.")
    text_embeds = torch.nn.functional.normalize(embedder.embed_texts(texts), dim=1)
    image_embeds = embedded.image_embeds.to(text_embeds.device)
    by_query = image_text_recall(image_embeds, embedded.rows, text_embeds, owners)
    return Scores(by_query, query=embedded, counts={"texts": len(texts)})


def texts_of_rows(column: list, rows: list[int]) -> tuple[list[str], list[int]]:
    """The texts of the readable rows and the row of each; null and empty texts are left out."""
    pairs = []
    for row in rows:
        values = column[row] if isinstance(column[row], list) else [column[row]]
        pairs += [(text, row) for text in values if text]
    return [text for text, _ in pairs], [row for _, row in pairs]


def image_text_recall(
    image_embeds: torch.Tensor, image_rows: list[int], text_embeds: torch.Tensor, text_rows: list[int]
) -> dict[str, np.ndarray]:
    """Recalls by query, both ways; an image without a text is NaN. A pair matches when their rows are equal.

    Args:
        image_embeds: Unit-length, shape (images, D).
        text_embeds: Unit-length, shape (texts, D).
    """
    to_texts = best_rank(image_embeds, image_rows, text_embeds, text_rows)
    to_images = best_rank(text_embeds, text_rows, image_embeds, image_rows)
    recalls = {f"image to text R@{k}": recall(to_texts, k) for k in KS}
    return recalls | {f"text to image R@{k}": recall(to_images, k) for k in KS}
