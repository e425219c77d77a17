"""Training on a part of each image's patches, or on smaller images first: cheaper steps for most of a run.

Source: FLIP (https://arxiv.org/abs/2212.00794) for patch dropout, CLIPA (https://arxiv.org/abs/2305.07017) for small
images first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModel


@contextmanager
def keep_patches(vision_model: CLIPVisionModel, kept_patches: torch.Tensor | None) -> Iterator[None]:
    """Lets a vision tower that is prepared for it see only some patches of each image, and its class token.

    Args:
        kept_patches: Their indices `[B, K]`, or None for all.
    """
    embeddings = embeddings_of(vision_model)
    embeddings.kept_patches = kept_patches
    try:
        yield
    finally:
        embeddings.kept_patches = None


def prepare_for_kept_patches(vision_model: CLIPVisionModel) -> None:
    """Lets `keep_patches` work on a vision tower, compiled or not; once, and before it is compiled.

    A hook that came and went with the patches would be ignored by a compiled tower.
    """
    embeddings_of(vision_model).kept_patches = None
    embeddings_of(vision_model).register_forward_hook(take_kept_patches)


def take_kept_patches(module: nn.Module, inputs: tuple, embeddings: torch.Tensor) -> torch.Tensor:
    """Takes the states of the class token and of the module's `kept_patches`, if it has any, `[B, 1 + K, H]`."""
    kept = module.kept_patches
    if kept is None:
        return embeddings
    places = torch.cat([kept.new_zeros(len(kept), 1), kept + 1], dim=1)  # 0: class token.
    return embeddings.gather(1, places[..., None].expand(-1, -1, embeddings.shape[2]))


def embeddings_of(vision_model: CLIPVisionModel) -> nn.Module:
    """The module that turns pixels into the states of the class token and of every patch."""
    return getattr(vision_model, "vision_model", vision_model).embeddings


def draw_patches(noise: torch.Tensor, *, num_patches: int, dropout: float) -> torch.Tensor:
    """Chooses patches at random, the same for the same noise.

    Args:
        noise: Numbers `[B, P]`, P at least `num_patches`.
        dropout: Share of the patches to leave out, in [0, 1); at least one is kept.

    Returns:
        Indices `[B, K]`, ascending.
    """
    num_kept = max(1, round(num_patches * (1 - dropout)))
    return noise[:, :num_patches].argsort(dim=1)[:, :num_kept].sort(dim=1).values


def shrink_images(pixel_values: torch.Tensor, *, image_size: int) -> torch.Tensor:
    """Resizes a batch `[B, 3, H, W]` to `image_size` squared, averaging pixels."""
    if pixel_values.shape[-1] == image_size:
        return pixel_values
    size = (image_size, image_size)
    return F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False, antialias=True)


def value_at(schedule: dict[float, float], progress: float) -> float | None:
    """Value of a schedule, a mapping from the share of the run at which a value begins to that value.

    Args:
        progress: Share of the run that is done, in [0, 1].

    Returns:
        None before the first value, and for an empty schedule.
    """
    begun = [start for start in schedule if start <= progress]
    return schedule[max(begun)] if begun else None
