"""Zero-shot classification: the class whose prompts' mean text embedding is nearest to the image."""

import numpy as np
import torch

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.label_sets import labels_of, weighted_by_class
from evaluation.labeled_images import LabeledImages
from evaluation.prompts import read_class_names, read_prompts


def evaluate_zero_shot(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Names the class of each image; `per class` is the mean over classes of their accuracies."""
    prompts = read_prompts(benchmark.prompts, benchmark.data)
    names = read_class_names(benchmark.class_names, query, benchmark.data)
    embedded = embedder(query)
    labels = embedded_labels(query, embedded)
    class_embeds = embed_classes(embedder, list(names.values()), prompts)  # [classes, D]
    predicted = classify(embedded.image_embeds.to(class_embeds.device), class_embeds)
    named = [list(names)[place] for place in predicted]
    correct = np.array([name in labels_of(label) for name, label in zip(named, labels, strict=True)], float)
    by_query = {"accuracy": correct, "per class": weighted_by_class(correct, labels)}
    return Scores(by_query, query=embedded, counts={"classes": len(names), "prompts": len(prompts)})


def embed_classes(embedder: Embedder, names: list[str], prompts: list[str]) -> torch.Tensor:
    """Unit-length class embeddings of shape (len(names), D): each prompt to unit length, their mean, to unit length.

    Args:
        names: Names of the classes.
        prompts: Templates with `{}` for the name.
    """
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    embeds = torch.nn.functional.normalize(embedder.embed_texts(texts), dim=1)
    means = embeds.view(len(names), len(prompts), -1).mean(dim=1)  # [classes, D]
    return torch.nn.functional.normalize(means, dim=1)


def classify(image_embeds: torch.Tensor, class_embeds: torch.Tensor, *, rows: int = 4096) -> list[int]:
    """Index of the nearest class of each image; the first of equally near ones."""
    return [
        int(place)
        for start in range(0, len(image_embeds), rows)
        for place in first_of_largest(image_embeds[start : start + rows] @ class_embeds.T)
    ]


def first_of_largest(scores: torch.Tensor) -> torch.Tensor:
    """The first column with the largest score of each row; `argmax` leaves open which."""
    columns = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(scores == scores.max(dim=1, keepdim=True).values, columns, scores.shape[1]).min(dim=1).values
