"""Naming in the open: images of entities that the candidates lack (NIL) shall be answered by nothing.

A way of naming answers with its best candidate where that one's score reaches a threshold, and with nothing
elsewhere. Moving the threshold trades two rates, as in open-set identification: images of candidates that are named
right and with a score that reaches it (detection and identification, DIR), and NIL images that get a name (false
positives, FPIR).
"""

import numpy as np
import torch

from metrics.knn_accuracy.knn_accuracy import nearest


FALSE_POSITIVE_RATES = (0.01, 0.1)
CURVE_POINTS = 101


def best_scores(image_embeds: torch.Tensor, entity_embeds: torch.Tensor) -> np.ndarray:
    """Score of the best candidate of each image, float64 of shape (images,)."""
    return nearest(image_embeds, entity_embeds, k=1)[0][:, 0].double().cpu().numpy()


def open_set_scores(scores: np.ndarray, is_right: np.ndarray, is_nil: np.ndarray) -> dict[str, np.ndarray]:
    """By known image, NaN for NIL ones: `AUROC` of telling them apart, and `DIR` at some false positive rates.

    Args:
        scores: Of the best candidate, float64 of shape (images,).
        is_right: Whether the best candidate is right, bool of shape (images,).
        is_nil: Whether no candidate is shown; some images must be, and some not.
    """
    nil = np.sort(scores[is_nil])
    below = np.searchsorted(nil, scores, side="left")
    level = np.searchsorted(nil, scores, side="right") - below
    columns = {"AUROC": (below + level / 2) / len(nil)}
    for rate in FALSE_POSITIVE_RATES:
        columns[f"DIR at {rate:.0%} FPIR"] = (is_right & (scores > threshold_at(nil, rate))).astype(np.float64)
    return {name: np.where(is_nil, np.nan, values) for name, values in columns.items()}


def threshold_at(nil_scores: np.ndarray, rate: float) -> float:
    """The lowest score of a NIL image that at most the share `rate` of them exceeds.

    Args:
        nil_scores: Ascending.
    """
    allowed = int(rate * len(nil_scores))
    return float(nil_scores[len(nil_scores) - 1 - allowed]) if allowed < len(nil_scores) else -np.inf


def open_set_curve(scores: np.ndarray, is_right: np.ndarray, is_nil: np.ndarray) -> list[tuple[float, float]]:
    """Points (FPIR, DIR), from the strictest threshold to none."""
    nil, known = np.sort(scores[is_nil]), ~is_nil
    rates = np.linspace(0, 1, CURVE_POINTS)
    hits = [(is_right[known] & (scores[known] > threshold_at(nil, rate))).mean() for rate in rates]
    return list(zip(rates.tolist(), map(float, hits), strict=True))
