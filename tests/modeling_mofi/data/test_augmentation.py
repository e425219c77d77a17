"""Random views."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mofi.data.augmentation import Augmentation, erase_rectangle, jitter_colors, random_view


def gradient_image(width=32, height=24):
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 8, rows * 8, np.full_like(rows, 100)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def view(image, seed=0, size=(24, 32), **settings):
    return random_view(image, Augmentation(**settings), size=size, generator=np.random.default_rng(seed))


def test_without_augmentation_a_view_is_the_image():
    image = gradient_image()
    assert np.array_equal(view(image), np.asarray(image))


def test_a_mirrored_view_is_the_image_from_right_to_left():
    image = gradient_image()
    assert np.array_equal(view(image, flip_probability=1.0), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize("seed", range(5))
def test_a_crop_keeps_at_least_the_asked_share(seed):
    crop = view(gradient_image(256, 24), seed=seed, size=(24, 256), min_crop_area=0.5).astype(int)
    kept = (crop[..., 0].max() - crop[..., 0].min() + 16) / 256
    assert 0.5**0.5 - 0.1 <= kept <= 1.05


def test_a_quarter_turn_moves_columns_to_rows():
    image = gradient_image(24, 24)
    turned = [view(image, seed=seed, size=(24, 24), max_rotation=90)[8:16, 8:16, 0] for seed in range(40)]
    down = [abs(int(block[-1, 4]) - int(block[0, 4])) for block in turned]
    assert max(down) > 45  # Red now grows along rows: by 8 for each of 7.


def test_large_images_are_averaged_not_skipped():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    shrunk = view(Image.fromarray(stripes), size=(8, 8))
    assert np.abs(shrunk.astype(int) - 127).max() <= 2


def jittered(pixels, seed=0, **settings):
    generators = [np.random.default_rng(seed + index) for index in range(len(pixels))]
    return jitter_colors(pixels.clone(), Augmentation(**settings), generators)


def test_colors_stay_as_they_are_without_jitter():
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(jittered(pixels), pixels)


def test_jitter_stays_in_range_and_differs_from_image_to_image():
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    changed = jittered(pixels, color_jitter=0.8)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.allclose(changed[0], changed[1])


def test_a_gray_view_has_no_color():
    pixels = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    gray = jittered(pixels, gray_probability=1.0)
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    torch.testing.assert_close(gray[:, 0], gray[:, 2])


def test_an_erased_rectangle_is_at_most_a_quarter():
    for seed in range(10):
        pixels = torch.full((3, 20, 20), 2.0)
        erase_rectangle(pixels, np.random.default_rng(seed))
        changed = (pixels[0] != 2.0).float().mean().item()
        assert 0 < changed <= 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_probability": 2}, r"flip_probability is 2; it must be in \[0, 1\]"),
        ({"min_crop_area": 0}, r"min_crop_area is 0; it must be in \(0, 1\]"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio is 0.5; it must be 1 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)
