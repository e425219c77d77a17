"""MOFI's image processor: the preprocessing of Apple's release, exactly, with nothing but torch and Pillow."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .image_modes_mofi import to_rgb


# Of a longer image only the middle is resized, where the crop throws the rest away: 20000 x 1 pixels would take 12 GB.
MAX_ASPECT_RATIO = 32
INTERPOLATION_MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class MofiImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `MofiImageProcessor` beside the usual ones: `antialias`, whether shrinking averages pixels."""

    antialias: bool | None


class MofiImageProcessor(PilBackend):
    """Scales pixels to [0, 1], resizes that float tensor, crops its center and normalizes it.

    The defaults are the release's transform: shorter edge to 224, bilinear without antialiasing. `CLIPImageProcessor`
    is not equivalent: it resizes 8-bit images, bicubic, with antialiasing. A `size` with `height` and `width`
    stretches the image instead. Beyond the release, images are turned upright as their EXIF data say, transparent
    ones, arrays of four channels too, laid on white and 16-bit ones scaled to 8.

    Source: https://github.com/apple/ml-mofi (eval/utils.py).
    """

    valid_kwargs = MofiImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    antialias = False
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_convert_rgb = True

    def convert_to_rgb(self, image: ImageInput, **kwargs: Any) -> np.ndarray:
        """Turns a PIL image of any mode into RGB, `[H, W, 3]` uint8; arrays stay as they are."""
        return np.asarray(to_rgb(image)) if isinstance(image, Image.Image) else image

    def resize(
        self, image: torch.Tensor, size: SizeDict, resample: int | None = None, antialias: bool = False, **kwargs: Any
    ) -> torch.Tensor:
        """Resizes a float image `[C, H, W]`.

        Raises:
            ValueError: If `resample` is neither bilinear (2) nor bicubic (3).
        """
        if resample not in INTERPOLATION_MODES:
            raise ValueError(f"resample is {resample}; MofiImageProcessor knows 2 (bilinear) and 3 (bicubic).")
        return torch.nn.functional.interpolate(
            image[None],
            size=output_size(image.shape[-2:], size),
            mode=INTERPOLATION_MODES[resample],
            align_corners=False,
            antialias=antialias,
        )[0]

    def _preprocess(
        self,
        images: list[np.ndarray],
        *,
        do_resize: bool,
        size: SizeDict,
        resample: int,
        antialias: bool,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_values = []
        for array in images:
            white = 255.0 if array.dtype == np.uint8 else 1 / rescale_factor if do_rescale else 1.0
            image = torch.as_tensor(np.ascontiguousarray(array)).float()
            image = three_channels(image, white=white) if len(image_mean) == 3 else image
            if do_rescale:
                image = image * rescale_factor
            if do_resize:
                image = bound_aspect_ratio(image, size, do_center_crop=do_center_crop)
                image = self.resize(image, size, resample=resample, antialias=antialias)
            if do_center_crop:
                image = center_crop(image, crop_size)
            if do_normalize:
                mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (image_mean, image_std))
                image = (image - mean) / std
            pixel_values.append(image.numpy())
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


def three_channels(image: torch.Tensor, *, white: float) -> torch.Tensor:
    """RGB `[3, H, W]` out of one channel, which is gray, three, or four, of which the last is opacity.

    Args:
        white: The largest level.

    Raises:
        ValueError: If the image has another number of channels.
    """
    if len(image) == 1:
        return image.expand(3, -1, -1)
    if len(image) == 4:
        opacity = image[3:] / white
        return image[:3] * opacity + white * (1 - opacity)
    if len(image) != 3:
        raise ValueError(f"An image has {len(image)} channels; it must have 1 (gray), 3 (RGB) or 4 (RGBA).")
    return image


def bound_aspect_ratio(image: torch.Tensor, size: SizeDict, *, do_center_crop: bool) -> torch.Tensor:
    """The middle of an image `[C, H, W]` that is too long to be resized as a whole by its shorter edge.

    Raises:
        ValueError: If nothing crops the image afterwards.
    """
    height, width = image.shape[-2:]
    longest = MAX_ASPECT_RATIO * min(height, width)
    if max(height, width) <= longest or (size.height and size.width):
        return image
    if not do_center_crop:
        raise ValueError(
            f"The image is {width} x {height} pixels; without a crop its sides may differ by a factor of "
            f"{MAX_ASPECT_RATIO} at most. Crop it, or set size to a height and a width."
        )
    return center_crop(image, SizeDict(height=min(height, longest), width=min(width, longest)))


def output_size(image_size: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Height and width after resizing: the given ones, or the shorter edge at the given length."""
    if size.height and size.width:
        return size.height, size.width
    if not size.shortest_edge:
        raise ValueError(f"size is {dict(size)}; it must have shortest_edge, or height and width.")
    height, width = image_size
    long_edge = max(1, int(size.shortest_edge * max(height, width) / min(height, width)))
    return (size.shortest_edge, long_edge) if height <= width else (long_edge, size.shortest_edge)


def center_crop(image: torch.Tensor, crop_size: SizeDict) -> torch.Tensor:
    """Cuts the center out of `[C, H, W]`; a smaller image is first padded with zeros."""
    lacking_height = max(0, crop_size.height - image.shape[-2])
    lacking_width = max(0, crop_size.width - image.shape[-1])
    if lacking_height or lacking_width:
        left, top = lacking_width // 2, lacking_height // 2
        padding = (left, lacking_width - left, top, lacking_height - top)
        image = torch.nn.functional.pad(image, padding)
    top = round((image.shape[-2] - crop_size.height) / 2)
    left = round((image.shape[-1] - crop_size.width) / 2)
    return image[..., top : top + crop_size.height, left : left + crop_size.width]
