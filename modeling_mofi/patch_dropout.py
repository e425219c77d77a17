"""Training on a part of each image's patches, or on smaller images first: cheaper steps for most of a run.

Source: FLIP (https://arxiv.org/abs/2212.00794) for patch dropout, CLIPA (https://arxiv.org/abs/2305.07017) for small
images first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


# States before those of the patches where the embeddings end, of towers whose patches can be left out. Others place
# patches inside their layers (DINOv3, MLCD), or convolve.
NUM_PREFIX_STATES = {"clip_vision_model": 1, "vit": 1, "dinov2": 1, "siglip_vision_model": 0}


def check_patch_dropout(config: PreTrainedConfig) -> None:
    """Raises ValueError if an image tower of this configuration needs all patches of an image."""
    if config.model_type not in NUM_PREFIX_STATES:
        raise ValueError(
            f"An image tower of type {config.model_type!r} needs all patches of an image; those of type "
            f"{', '.join(NUM_PREFIX_STATES)} do not. Leave out patch_dropout_schedule."
        )


@contextmanager
def keep_patches(vision_model: PreTrainedModel, kept_patches: torch.Tensor | None) -> Iterator[None]:
    """Lets a vision tower that is prepared for it see only some patches of each image, and its class token.

    Args:
        kept_patches: Their indices `[B, K]`, or None for all.

    Raises:
        ValueError: If the tower needs all patches and is given some.
    """
    if kept_patches is None:
        yield
        return
    check_patch_dropout(vision_model.config)
    embeddings = embeddings_of(vision_model)
    embeddings.kept_patches = kept_patches
    try:
        yield
    finally:
        embeddings.kept_patches = None


def prepare_for_kept_patches(vision_model: PreTrainedModel) -> None:
    """Lets `keep_patches` work on a vision tower, compiled or not; once, and before it is compiled.

    A hook that came and went with the patches would be ignored by a compiled tower.
    """
    if vision_model.config.model_type in NUM_PREFIX_STATES:
        embeddings = embeddings_of(vision_model)
        embeddings.num_prefix_states = NUM_PREFIX_STATES[vision_model.config.model_type]
        embeddings.kept_patches = None
        embeddings.register_forward_hook(take_kept_patches)


def take_kept_patches(module: nn.Module, inputs: tuple, embeddings: torch.Tensor) -> torch.Tensor:
    """Takes the states of the class token, if there is one, and of the module's `kept_patches`, `[B, (1 +) K, H]`."""
    kept = module.kept_patches
    if kept is None:
        return embeddings
    num_prefix = module.num_prefix_states
    places = torch.cat([kept.new_zeros(len(kept), num_prefix), kept + num_prefix], dim=1)  # 0: class token.
    return embeddings.gather(1, places[..., None].expand(-1, -1, embeddings.shape[2]))


def embeddings_of(vision_model: PreTrainedModel) -> nn.Module:
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
