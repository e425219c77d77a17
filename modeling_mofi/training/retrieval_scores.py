"""Retrieval, recall and naming of images that may have several labels, of which any one is right."""

from collections.abc import Hashable, Sequence

import torch


SCORES_PER_CHUNK = 2**24


def retrieval_map(
    image_embeds: torch.Tensor, labels: Sequence[Sequence[Hashable]], *, scores_per_chunk: int = SCORES_PER_CHUNK
) -> float:
    """Mean average precision over the full ranking of the other images; equal scores rank by their order.

    With one label an image it is that of metrics/retrieval_map.

    Args:
        image_embeds: Unit-length `[N, D]`, fp32.
        labels: Of each image, at least one; an image is relevant to those that it shares a label with.

    Returns:
        In [0, 1]; NaN if no two images share a label.
    """
    members = members_by_label(labels)
    rows = max(1, scores_per_chunk // len(image_embeds))
    ranks = torch.arange(1, len(image_embeds) + 1, dtype=torch.float64)
    precisions = []
    for start in range(0, len(image_embeds), rows):
        own = torch.arange(start, min(start + rows, len(image_embeds)))
        scores = image_embeds[own] @ image_embeds.t()  # [rows, N]
        scores[own - start, own] = -torch.inf
        relevant = torch.zeros(scores.shape, dtype=torch.bool)
        for row, place in enumerate(own.tolist()):
            for label in labels[place]:
                relevant[row, members[label]] = True
        relevant[own - start, own] = False
        is_right = relevant.gather(1, scores.argsort(dim=1, descending=True, stable=True))
        precision = (is_right.cumsum(dim=1) / ranks * is_right).sum(dim=1) / is_right.sum(dim=1)
        precisions.append(precision[is_right.any(dim=1)])
    return torch.cat(precisions).mean().item()


def members_by_label(labels: Sequence[Sequence[Hashable]]) -> dict[Hashable, list[int]]:
    """Places of the images that have each label."""
    members: dict[Hashable, list[int]] = {}
    for place, own in enumerate(labels):
        for label in own:
            members.setdefault(label, []).append(place)
    return members


def text_recall(image_embeds: torch.Tensor, text_embeds: torch.Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Share of images whose nearest text is their own, and of texts whose nearest image is theirs.

    Equal texts stand for one another; images without a text (None or empty) are left out.

    Args:
        image_embeds: Unit-length `[N, D]`.
        text_embeds: Unit-length `[N, D]`; row i belongs to image i.
    """
    kept = [place for place, text in enumerate(texts) if text]
    if not kept:
        return {}
    own = [texts[place] for place in kept]
    scores = image_embeds[kept] @ text_embeds[kept].t()
    nearest = {"image_to_text_recall": scores.argmax(dim=1), "text_to_image_recall": scores.argmax(dim=0)}
    return {
        name: sum(own[found] == text for found, text in zip(places.tolist(), own, strict=True)) / len(own)
        for name, places in nearest.items()
    }


def naming_accuracy(
    image_embeds: torch.Tensor, labels: Sequence[Sequence[int]], shown: Sequence[int], name_embeds: torch.Tensor
) -> float:
    """Share of images whose nearest name is that of one of their entities.

    Args:
        shown: Labels that there are names of.
        name_embeds: Unit-length `[len(shown), D]`.
    """
    nearest = (image_embeds @ name_embeds.t()).argmax(dim=1).tolist()
    return sum(shown[found] in own for found, own in zip(nearest, labels, strict=True)) / len(labels)
