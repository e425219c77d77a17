"""Which images count as near-duplicates of training images, and that they are left out."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from evaluation.labeled_images import open_images
from evaluation.near_duplicates import MAX_DISTANCE, hash_images, is_near, perceptual_hash, without_near_duplicates


def scene(seed):
    """A picture with structure of many sizes."""
    noise = np.random.default_rng(seed).random((9, 12, 3)) * 255
    return Image.fromarray(noise.astype(np.uint8)).resize((240, 180), Image.Resampling.BICUBIC)


def saved(image, format="JPEG", **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def distance(first, second):
    return (perceptual_hash(first) ^ perceptual_hash(second)).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: Image.open(io.BytesIO(saved(image, quality=30))),
        lambda image: image.resize((100, 75)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
        lambda image: image.convert("L"),
    ],
)
def test_another_copy_of_an_image_is_near(change):
    assert all(distance(scene(seed), change(scene(seed))) <= MAX_DISTANCE for seed in range(8))


def test_other_images_are_far_and_plain_ones_have_no_hash():
    assert all(distance(scene(0), scene(seed)) > 2 * MAX_DISTANCE for seed in range(1, 30))
    assert perceptual_hash(Image.new("RGB", (60, 40), "red")) is None


def test_distances_are_counted_in_bits():
    hashes = np.array([0b1111, 0b0000, 0xFFFF], dtype=np.uint64)
    others = np.array([0b1100, 0b1100], dtype=np.uint64)
    assert is_near(hashes, others, max_distance=2).tolist() == [True, True, False]
    assert not is_near(hashes, others[:0]).any()


def test_near_duplicates_are_left_out_and_counted(write_rows, tmp_path, caplog):
    training = write_rows("train.parquet", image=[saved(scene(seed)) for seed in (0, 1)] + [b"broken"])
    data = write_rows(
        "test.parquet",
        image=[saved(scene(seed), quality=40) for seed in (5, 1, 6)] + [saved(Image.new("RGB", (30, 30))), b"broken"],
        label=list("abcde"),
    )
    images, count = without_near_duplicates(
        open_images(data, label_column="label"), open_images(training), cache_dir=tmp_path
    )
    assert images.labels == ["a", "c", "d", "e"] and images.row_ids == ["0", "2", "3", "4"] and count == 1
    assert "1 images are near-duplicates of" in caplog.text
    assert images.fingerprint != open_images(data, label_column="label").fingerprint
    again = open_images(data)
    again.read = None  # The hashes are kept: nothing is read again.
    assert hash_images(again, cache_dir=tmp_path)[1].tolist() == [True, True, True, False, False]
