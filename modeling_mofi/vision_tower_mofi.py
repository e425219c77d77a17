"""The vision tower: CLIP's, and by choice with convolutions in place of its one linear layer per patch."""

import torch
from torch import nn
from transformers import CLIPVisionModel

from .configuration_mofi import STEM_GROUPS, MofiConfig


def build_vision_tower(config: MofiConfig) -> CLIPVisionModel:
    """Makes CLIP's vision tower; with `config.stem_channels`, its patches are embedded by a `MofiConvStem`."""
    tower = CLIPVisionModel._from_config(config.vision_config)
    if config.stem_channels:
        embeddings = getattr(tower, "vision_model", tower).embeddings
        embeddings.patch_embedding = MofiConvStem(config)
    return tower


class MofiConvStem(nn.Conv2d):
    """Patch embedding behind 3 x 3 convolutions of stride 2, each with group normalisation and GELU.

    The last convolution is this module itself, so that it has the `weight` that CLIP's code asks of a patch
    embedding. With few images a transformer learns more behind convolutions than behind one linear layer per patch.

    Source: Early Convolutions Help Transformers See Better (https://huggingface.co/papers/2106.14881); batch
    normalisation there, group normalisation here, which no other image of the batch touches.

    Args:
        config: Its `stem_channels` are the channels of the convolutions; each halves height and width.
    """

    def __init__(self, config: MofiConfig):
        vision, channels = config.vision_config, config.stem_channels
        patch_size = vision.patch_size // 2 ** len(channels)
        super().__init__(channels[-1], vision.hidden_size, kernel_size=patch_size, stride=patch_size, bias=False)
        widths = zip([vision.num_channels, *channels], channels, strict=False)
        self.convolutions = nn.Sequential(*(half_size(*pair) for pair in widths))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeds images `[B, 3, H, W]` as a grid of patches `[B, hidden_size, H / patch_size, W / patch_size]`."""
        return super().forward(self.convolutions(pixel_values))


def half_size(in_channels: int, out_channels: int) -> nn.Sequential:
    """One convolution of the stem, `[B, in_channels, H, W]` to `[B, out_channels, H / 2, W / 2]`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.GroupNorm(STEM_GROUPS, out_channels),
        nn.GELU(),
    )
