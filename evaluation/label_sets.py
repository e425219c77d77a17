"""Labels of images: one each, or several of which any is right.

An image with several labels has them as a tuple. Two images match when they share a label, and a named class is right
when it is one of the image's labels. With one label per image every number is what it always was.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch


Label = str | int


def labels_of(label: Label | tuple[Label, ...]) -> tuple[Label, ...]:
    """The labels of an image."""
    return label if isinstance(label, tuple) else (label,)


def share_label(first: Label | tuple[Label, ...], second: Label | tuple[Label, ...]) -> bool:
    """Whether two images have a label in common."""
    return not set(labels_of(first)).isdisjoint(labels_of(second))


def classes_of(labels: Iterable[Label | tuple[Label, ...]]) -> list[Label]:
    """All labels that occur, in order."""
    return sorted({one for label in labels for one in labels_of(label)})


def class_counts(labels: Iterable[Label | tuple[Label, ...]]) -> Counter:
    """Images of each label."""
    return Counter(one for label in labels for one in labels_of(label))


def is_alone(labels: Sequence[Label | tuple[Label, ...]]) -> np.ndarray:
    """Whether no other image shares a label, bool of shape (len(labels),)."""
    counts = class_counts(labels)
    return np.array([all(counts[one] == 1 for one in labels_of(label)) for label in labels])


def class_table(labels: Sequence[Label | tuple[Label, ...]], classes: Sequence[Label]) -> torch.Tensor:
    """Places of each image's labels in `classes`, int64 of shape (images, most labels); -1 fills up or is unknown."""
    places = {label: place for place, label in enumerate(classes)}
    rows = [[places.get(one, -1) for one in labels_of(label)] for label in labels]
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def weighted_by_class(correct: np.ndarray, labels: Sequence[Label | tuple[Label, ...]]) -> np.ndarray:
    """Scores whose mean over images is the mean over classes of the class means; classes without images are absent.

    An image with several labels counts in the mean of each.
    """
    counts = class_counts(labels)
    weights = [sum(1 / counts[one] for one in labels_of(label)) for label in labels]
    return correct * np.array(weights) * (len(labels) / len(counts))
