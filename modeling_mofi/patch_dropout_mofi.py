"""Training on a part of each image's patches, or on smaller images first: cheaper steps for most of a run.

Source: FLIP (https://arxiv.org/abs/2212.00794) for patch dropout, CLIPA (https://arxiv.org/abs/2305.07017) for small
images first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from transformers import CLIPVisionModel


@contextmanager
def keep_patches(vision_model: CLIPVisionModel, kept_patches: torch.Tensor | None) -> Iterator[None]:
    """Lets the vision tower see only some patches of each image, and its class token.

    Args:
        kept_patches: Their indices `[B, K]`, or None for all.
    """
    if kept_patches is None:
        yield
        return

    def keep(module: torch.nn.Module, inputs: tuple, embeddings: torch.Tensor) -> torch.Tensor:
        places = torch.cat([kept_patches.new_zeros(len(kept_patches), 1), kept_patches + 1], dim=1)  # 0: class token.
        return embeddings.gather(1, places[..., None].expand(-1, -1, embeddings.shape[2]))  # [B, 1 + K, H]

    handle = embeddings_of(vision_model).register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def embeddings_of(vision_model: CLIPVisionModel) -> torch.nn.Module:
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
