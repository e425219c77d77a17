"""The demo's entity index: loaded or built from the checkpoint, and calibrated on labeled images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from modeling_mofi.data.images import read_image
from modeling_mofi.search.entity_index import EntityIndex


logger = logging.getLogger(__name__)


def load_index(model: str, index: str | None) -> EntityIndex | None:
    """The saved index, or one of the checkpoint's entities, or None if the checkpoint names none."""
    if index is not None:
        return EntityIndex.from_pretrained(index)
    try:
        return EntityIndex.from_checkpoint(model)
    except ValueError as error:
        logger.warning("no entities to name: %s", error)
        return None


def calibrate(index: EntityIndex, files: Sequence[str], *, label_column: str) -> None:
    """Fits the index's confidences to Parquet files of labeled images.

    Raises:
        ValueError: If a file lacks a column.
    """
    images, entity_ids = [], []
    for file in files:
        found = pq.read_schema(file).names
        if missing := {"image", label_column} - set(found):
            raise ValueError(f"{file} has no column {', '.join(sorted(missing))}; its columns are {', '.join(found)}.")
        table = pq.read_table(file, columns=["image", label_column])
        folders = [str(Path(file).absolute().parent)]
        images += [read_image(image, folders=folders) for image in table.column("image").to_pylist()]
        entity_ids += table.column(label_column).to_pylist()
    fit = index.calibrate(images, entity_ids)
    logger.info("calibrated on %d images: threshold %.2f, scale %.1f", len(images), fit.threshold, fit.scale)
