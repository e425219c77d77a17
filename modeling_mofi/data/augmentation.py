"""Random views of an image for training: one affine resampling, then color, each a function of a generator."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image


LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """How far training views may depart from the image; the defaults leave it unchanged.

    Args:
        min_crop_area: Smallest share of the image that a crop keeps, in (0, 1].
        max_aspect_ratio: A crop's width may be stretched or shrunk against its height by up to this factor, >= 1.
        max_rotation: Degrees by which a view may be turned, either way.
        flip_probability: Share of views that are mirrored left to right.
        color_jitter: Relative change of brightness, contrast and saturation, each in [0, 1].
        gray_probability: Share of views without color.
        erase_probability: Share of views of which a rectangle (up to a quarter of the area) is filled with noise.
    """

    min_crop_area: float = 1.0
    max_aspect_ratio: float = 1.0
    max_rotation: float = 0.0
    flip_probability: float = 0.0
    color_jitter: float = 0.0
    gray_probability: float = 0.0
    erase_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip_probability", "color_jitter", "gray_probability", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1].")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area is {self.min_crop_area}; it must be in (0, 1].")
        if self.max_aspect_ratio < 1:
            raise ValueError(f"max_aspect_ratio is {self.max_aspect_ratio}; it must be 1 or more.")


def random_view(
    image: Image.Image, augmentation: Augmentation, *, size: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """Cuts, turns, mirrors and resizes an RGB image in one resampling; what lies outside it is white.

    Args:
        size: Height and width of the view.

    Returns:
        `[H, W, 3]` uint8.
    """
    height, width = size
    area = generator.uniform(augmentation.min_crop_area, 1.0)
    stretch = augmentation.max_aspect_ratio ** generator.uniform(-0.5, 0.5)
    crop_width = min(1.0, np.sqrt(area) * stretch) * image.width
    crop_height = min(1.0, np.sqrt(area) / stretch) * image.height
    center_x = image.width / 2 + generator.uniform(-0.5, 0.5) * (image.width - crop_width)
    center_y = image.height / 2 + generator.uniform(-0.5, 0.5) * (image.height - crop_height)
    angle = np.deg2rad(generator.uniform(-1, 1) * augmentation.max_rotation)
    mirror = -1.0 if generator.random() < augmentation.flip_probability else 1.0
    if crop_width >= 2 * width and crop_height >= 2 * height:
        # Averages whole blocks of pixels first: the affine transform below looks at four pixels only.
        factor = int(min(crop_width / width, crop_height / height))
        image = image.reduce(factor)
        crop_width, crop_height = crop_width / factor, crop_height / factor
        center_x, center_y = center_x / factor, center_y / factor
    # Columns of the matrix from view pixels to image pixels.
    step_x, step_y = mirror * crop_width / width, crop_height / height
    a, b = np.cos(angle) * step_x, -np.sin(angle) * step_y
    d, e = np.sin(angle) * step_x, np.cos(angle) * step_y
    c = center_x - a * width / 2 - b * height / 2
    f = center_y - d * width / 2 - e * height / 2
    view = image.transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR, fillcolor="white"
    )
    return np.asarray(view)


def jitter_colors(
    pixels: torch.Tensor, augmentation: Augmentation, generators: list[np.random.Generator]
) -> torch.Tensor:
    """Changes brightness, contrast and saturation of images in [0, 1], and erases rectangles of them.

    Args:
        pixels: `[B, 3, H, W]`.
        generators: One per image.
    """
    jitter = augmentation.color_jitter
    factors = np.stack([generator.uniform(1 - jitter, 1 + jitter, size=3) for generator in generators])
    is_gray = np.array([generator.random() < augmentation.gray_probability for generator in generators])
    factors[is_gray, 2] = 0.0
    if (factors != 1).any():
        brightness, contrast, saturation = torch.from_numpy(factors).float().t()[..., None, None]  # 3 x [B, 1, 1]
        # All three are one affine map of each pixel, so the images are read and written once.
        luma = torch.tensor(LUMA)
        matrix = saturation * torch.eye(3) + (1 - saturation) * luma  # [B, 3, 3]
        mean = (pixels.mean(dim=(2, 3)) @ luma)[:, None, None]
        shift = (brightness * (1 - contrast) * mean).expand(-1, 3, 1)
        flat = torch.baddbmm(shift, brightness * contrast * matrix, pixels.flatten(2))
        pixels = flat.clamp_(0, 1).view_as(pixels)
    for index, generator in enumerate(generators):
        if generator.random() < augmentation.erase_probability:
            erase_rectangle(pixels[index], generator)
    return pixels


def erase_rectangle(pixels: torch.Tensor, generator: np.random.Generator) -> None:
    """Fills a random rectangle of `[3, H, W]` with noise, in place."""
    height, width = (max(1, round(side * generator.uniform(0.1, 0.5))) for side in pixels.shape[1:])
    top = generator.integers(0, pixels.shape[1] - height + 1)
    left = generator.integers(0, pixels.shape[2] - width + 1)
    noise = generator.random((3, height, width), dtype=np.float32)
    pixels[:, top : top + height, left : left + width] = torch.from_numpy(noise)
