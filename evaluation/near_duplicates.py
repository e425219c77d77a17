"""Near-duplicates of the training data among the images of an evaluation, by a perceptual hash.

The hash is that of pHash: the signs, against their median, of the 63 lowest frequencies of a 32-pixel grayscale
copy. It knows no model, so that the same images are left out for every model. `benchmarks/near_duplicates.py`
measures what it finds and what it mistakes; MAX_DISTANCE is chosen there.
"""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from evaluation.labeled_images import LabeledImages
from modeling_mofi.data.images import UnreadableImage
from modeling_mofi.whole_files import write_whole


logger = logging.getLogger(__name__)

SIDE, FREQUENCIES = 32, 8
MAX_DISTANCE = 6  # Of 63 bits.
MIN_CONTRAST = 8  # Gray levels; a plain area has no structure to tell it by.
PAIRS_PER_CHUNK = 2**24
COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(FREQUENCIES), np.arange(SIDE) + 0.5))  # [frequencies, pixels]


def perceptual_hash(image: Image.Image) -> int | None:
    """63 bits, or None for an image that is all one color."""
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    if np.ptp(gray) < MIN_CONTRAST:
        return None
    frequencies = (COSINES @ gray @ COSINES.T).flatten()[1:]  # Without the mean brightness.
    return int("".join("01"[value] for value in (frequencies > np.median(frequencies)).astype(int)), 2)


def hash_images(images: LabeledImages, *, cache_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each row, uint64, and whether it has one; kept on disk by the fingerprint of the data."""
    key = hashlib.sha256(f"{images.fingerprint} {images.image_column}".encode()).hexdigest()[:32]
    path = cache_dir / "hashes" / f"{key}.npy"
    if not path.is_file():
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            found = threads.map(lambda row: hash_row(images, row), range(len(images)))
            progress = tqdm(found, total=len(images), desc=f"hash {images.name}", unit="image", delay=5)
            table = np.array([(value or 0, value is not None) for value in progress], dtype=np.uint64)
        with write_whole(path) as temporary, open(temporary, "wb") as file:
            np.save(file, table)
    table = np.load(path)
    return table[:, 0], table[:, 1].astype(bool)


def hash_row(images: LabeledImages, row: int) -> int | None:
    """Hash of a row; None also where the image cannot be read, which the embedding reports."""
    try:
        return perceptual_hash(images.read(row)[0])
    except UnreadableImage:
        return None


def is_near(hashes: np.ndarray, others: np.ndarray, *, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Whether one of the other hashes differs in at most `max_distance` bits, bool of shape (len(hashes),)."""
    others = np.unique(others)
    result = np.zeros(len(hashes), dtype=bool)
    rows = max(1, PAIRS_PER_CHUNK // max(1, len(others)))
    for start in range(0, len(hashes) if len(others) else 0, rows):
        different = hashes[start : start + rows, None] ^ others[None]
        result[start : start + rows] = (np.bitwise_count(different) <= max_distance).any(axis=1)
    return result


def without_near_duplicates(
    images: LabeledImages, training: LabeledImages, *, cache_dir: Path
) -> tuple[LabeledImages, int]:
    """The images that are no near-duplicates of training images, and how many others there are."""
    hashes, has_hash = hash_images(images, cache_dir=cache_dir)
    others, are_hashes = hash_images(training, cache_dir=cache_dir)
    is_duplicate = has_hash & is_near(hashes, others[are_hashes])
    if is_duplicate.all():
        raise ValueError(f"All images of {images.name} are near-duplicates of images of {training.name}.")
    if not is_duplicate.any():
        return images, 0
    count = int(is_duplicate.sum())
    logger.warning("%s: %d images are near-duplicates of %s and are left out", images.name, count, training.name)
    return images.only(np.where(~is_duplicate)[0].tolist()), count
