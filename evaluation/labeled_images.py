"""Opens labeled images from Parquet files, a folder of images or a `datasets` id, undecoded, with stable row ids."""

import contextlib
import difflib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants
from PIL import Image

from evaluation.label_sets import classes_of, labels_of
from evaluation.open_rows import find_files, open_rows
from modeling_mofi.data.dataset_fingerprint import dataset_fingerprint
from modeling_mofi.data.images import UnreadableImage, decode_image, image_bytes, locate_image


logger = logging.getLogger(__name__)

ID_COLUMNS = ("image_id", "__key__")  # Ours, and WebDataset's.


@dataclass
class LabeledImages:
    """Rows of a dataset whose images stay undecoded until they are embedded.

    Attributes:
        name: What the user called it.
        rows: The dataset, with `image_column` as undecoded bytes or path.
        row_ids: One distinct string per row.
        labels: A string or an int per row, or a tuple of them of which any is right; None without a label column.
        label_names: Name of each class, where the dataset knows them, by label.
        fingerprint: Changes when rows, order, columns or image files change.
        folders: Where image files may lie; a relative path starts at the first.
    """

    name: str
    rows: datasets.Dataset
    image_column: str
    row_ids: list[str]
    labels: list[Any] | None
    label_names: dict[Any, str]
    fingerprint: str
    folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row_ids)

    def read(self, row: int) -> tuple[Image.Image, int]:
        """The upright RGB image of a row and a 63-bit hash of its file; raises UnreadableImage."""
        return read_hashed(self.pictures[row][self.image_column], folders=self.folders)

    def only(self, kept: Sequence[int]) -> "LabeledImages":
        """These rows."""
        rows = self.rows.select(kept)
        return replace(
            self,
            rows=rows,
            row_ids=[self.row_ids[row] for row in kept],
            labels=self.labels and [self.labels[row] for row in kept],
            fingerprint=fingerprint_rows(rows, self.image_column, self.folders),
        )

    @cached_property
    def pictures(self) -> datasets.Dataset:
        """Only the column of images: reading a row then reads nothing else."""
        return self.rows.select_columns([self.image_column])

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        check_column(self.rows, name, self.name)
        return list(self.rows[name])


def open_images(
    data: str,
    *,
    label_column: str | Sequence[str] | None = None,
    image_column: str | None = None,
    id_column: str | Sequence[str] | None = None,
    image_root: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    keep_unlabeled: bool = False,
    limit: int | None = None,
) -> LabeledImages:
    """Opens a dataset of images.

    Args:
        data: A file or pattern (Parquet, JSONL, CSV, TSV), a folder of images or of such files, one written by
            `save_to_disk`, or an id on the Hub (`name`, `owner/name`, with `:config` where the dataset has several).
        label_column: Its name, or several of which the first that is there is taken; None asks for no labels. Rows
            without a label (null, an empty list, or -1 in a ClassLabel) are left out and logged.
        image_column: By default `image`, else the only column of images.
        id_column: By default `image_id` or WebDataset's `__key__`; else file name or row number identify a row.
            Of several names the first that is there.
        split: Needed where the dataset has several.
        revision: Of a dataset on the Hub.
        keep_unlabeled: Keeps rows without a label, whose labels are `()`.
        image_root: Folder of the image files that rows name by their paths; by default that of the data.
        limit: Keep the first rows only.

    Raises:
        FileNotFoundError: If there is no such file, folder or dataset.
        ValueError: If a column or split is missing (the message lists those that exist) or no row is left.
    """
    rows = open_rows(data, split, revision=revision)
    image_column = find_image_column(rows, image_column, data)
    labels, names = None, {}
    if label_column is not None:
        label_column = find_column(rows, label_column, data, flag="--label_column")
        labels, names = read_labels(rows, label_column)
        if keep_unlabeled:
            labels = [() if label is None else label for label in labels]
        rows, labels = drop_unlabeled(rows, labels, data=data, column=label_column)
    if limit is not None:
        rows, labels = rows.select(range(min(limit, len(rows)))), labels and labels[:limit]
    if not len(rows):
        raise ValueError(f"{data} has no rows to evaluate" + (f" with a {label_column!r}." if label_column else "."))
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    folders = image_folders(data, image_root)
    return LabeledImages(
        name=data,
        rows=rows,
        image_column=image_column,
        row_ids=read_row_ids(rows, id_column=id_column, image_column=image_column, data=data),
        labels=labels,
        label_names=names,
        fingerprint=fingerprint_rows(rows, image_column, folders),
        folders=folders,
    )


def image_folders(data: str, image_root: str | None) -> tuple[str, ...]:
    """Where the image files of a dataset may lie: beside it, and in the caches of what was downloaded."""
    found = [Path(data)] if Path(data).exists() else find_files(data)
    beside = sorted({str(path if path.is_dir() else path.parent) for path in found})
    caches = [str(datasets.config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE]
    return tuple(map(os.path.abspath, [*([image_root] if image_root else beside), *caches]))


def fingerprint_rows(rows: datasets.Dataset, image_column: str, folders: Sequence[str]) -> str:
    """Stands for the rows and, where they only name image files, for the size and time of those."""
    paths = rows.select_columns([image_column]).flatten()[f"{image_column}.path"]  # No bytes are read.
    digest = hashlib.sha256(dataset_fingerprint(rows).encode())
    for path in filter(None, paths):
        with contextlib.suppress(OSError, UnreadableImage):
            status = os.stat(locate_image(path, folders))
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def share_labels(query: LabeledImages, gallery: LabeledImages | None) -> None:
    """Calls the classes of both by their names where the two datasets number them differently.

    Folders opened one by one count their subfolders each on its own, so that a class that one of them lacks would
    shift the numbers of those after it.
    """
    if gallery is None or query.labels is None or query.label_names == gallery.label_names:
        return
    is_text = [isinstance(classes_of(images.labels)[0], str) for images in (query, gallery)]
    if not all(text or images.label_names for text, images in zip(is_text, (query, gallery), strict=True)):
        return
    for text, images in zip(is_text, (query, gallery), strict=True):
        if not text:
            images.labels = [named(label, images.label_names) for label in images.labels]
            images.label_names = {}
    if not set(classes_of(query.labels)) & set(classes_of(gallery.labels)):
        raise ValueError(
            f"{query.name} and {gallery.name} have no class in common: {query.labels[0]!r}, ... and "
            f"{gallery.labels[0]!r}, ...; give datasets with the same classes."
        )


def named(label: int | tuple[int, ...], names: dict[int, str]) -> str | tuple[str, ...]:
    """The label, or all of several, by name."""
    return tuple(names[one] for one in label) if isinstance(label, tuple) else names[label]


def find_image_column(rows: datasets.Dataset, image_column: str | None, data: str) -> str:
    """The column that was asked for, else `image`, else the only column of images."""
    if image_column is None and "image" not in rows.column_names:
        columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        image_column = columns[0] if len(columns) == 1 else None
    check_column(rows, image_column or "image", data)
    return image_column or "image"


def check_column(rows: datasets.Dataset, column: str, data: str, *, flag: str | None = None) -> None:
    """Raises a ValueError that lists the columns there are, and the flag that names another."""
    if column not in rows.column_names:
        near = difflib.get_close_matches(column, rows.column_names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        choice = f" Choose one by {flag}." if flag else ""
        raise ValueError(f"{data} has no column {column!r}; it has {', '.join(rows.column_names)}.{hint}{choice}")


def find_column(rows: datasets.Dataset, wanted: str | Sequence[str], data: str, *, flag: str | None = None) -> str:
    """The first of the columns that is there."""
    columns = [wanted] if isinstance(wanted, str) else list(wanted)
    found = next((column for column in columns if column in rows.column_names), columns[0])
    check_column(rows, found, data, flag=flag)
    return found


def read_labels(rows: datasets.Dataset, label_column: str) -> tuple[list[Any], dict[Any, str]]:
    """Label of each row (None where it has none, a tuple where the column holds lists), and names of the classes.

    I2E numbers its entities anew in every build: its rows are labeled with the ids of their `entities` instead.
    """
    if label_column == "entity_labels" and "entities" in rows.column_names:
        entities = list(rows["entities"])
        labels = [tuple(entity["entity_id"] for entity in row or ()) or None for row in entities]
        return labels, {entity["entity_id"]: entity["name"] for row in entities for entity in row or ()}
    feature = rows.features[label_column]
    feature = getattr(feature, "feature", feature)  # Of a list.
    nothing = (None, -1) if isinstance(feature, datasets.ClassLabel) else (None,)
    labels = [known_labels(label, nothing) for label in rows[label_column]]
    odd = {type(one) for label in labels if label is not None for one in labels_of(label)} - {str, int, bool}
    if odd:
        raise ValueError(f"Column {label_column!r} holds a {odd.pop().__name__}; a label must be a string or an int.")
    return labels, dict(enumerate(getattr(feature, "names", None) or []))


def known_labels(label: Any, nothing: tuple[Any, ...]) -> Any:
    """A label or, of a list, a tuple of those that are any; None where there is none."""
    if isinstance(label, list):
        return tuple(one for one in label if one not in nothing) or None
    return None if label in nothing else label


def drop_unlabeled(
    rows: datasets.Dataset, labels: list[Any], *, data: str, column: str
) -> tuple[datasets.Dataset, list[Any]]:
    """Leaves out rows without a label, and says how many."""
    kept = [row for row, label in enumerate(labels) if label is not None]
    if len(kept) == len(rows):
        return rows, labels
    count = len(rows) - len(kept)
    logger.warning("%s: %d of %d rows have no %s and are left out", data, count, len(rows), column)
    return rows.select(kept), [labels[row] for row in kept]


def read_row_ids(
    rows: datasets.Dataset, *, id_column: str | Sequence[str] | None, image_column: str, data: str
) -> list[str]:
    """One distinct string per row: the id column, else the file name, else the row number."""
    if id_column is None:
        id_column = next((name for name in ID_COLUMNS if name in rows.column_names), None)
    else:
        id_column = find_column(rows, id_column, data)
    if id_column is not None:
        row_ids = [str(value) for value in rows[id_column]]
    else:
        paths = rows.select_columns([image_column]).flatten()[f"{image_column}.path"]  # No bytes are read.
        row_ids = [Path(path).name if path else str(row) for row, path in enumerate(paths)]
    repeated = {row_id for row_id, count in Counter(row_ids).items() if count > 1}
    if repeated:
        logger.warning("%d row ids occur more than once; their row number is added to them", len(repeated))
        row_ids = [f"{row_id}#{row}" if row_id in repeated else row_id for row, row_id in enumerate(row_ids)]
    return row_ids


def read_hashed(image: dict[str, Any] | None, *, folders: Sequence[str] = ()) -> tuple[Image.Image, int]:
    """The RGB image of `{"bytes", "path"}` and a 63-bit hash of its file; raises UnreadableImage with the reason."""
    content = image_bytes(image, folders=folders)
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return decode_image(content).pixels, int.from_bytes(digest, "big") >> 1
