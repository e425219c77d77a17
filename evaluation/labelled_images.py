"""Opens labelled images from Parquet files, a folder of images or a `datasets` id, undecoded, with stable row ids."""

import difflib
import glob
import hashlib
import io
import logging
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from modeling_mofi.image_processing_mofi import to_rgb


logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
ID_COLUMNS = ("image_id", "__key__")  # Ours, and WebDataset's.
MAX_PIXELS = 128 * 2**20  # Checked in the header, before a decompression bomb can unfold.


class UnreadableImage(ValueError):
    """An image that cannot be decoded, with the reason."""


@dataclass
class LabelledImages:
    """Rows of a data set whose images stay undecoded until they are embedded.

    Attributes:
        name: What the user called it.
        rows: The data set, with `image_column` as undecoded bytes or path.
        row_ids: One distinct string per row.
        labels: One string or int per row, or None without a label column.
        label_names: Name of each class, where the data set knows them, by label.
        fingerprint: Changes when rows, order or columns change.
    """

    name: str
    rows: datasets.Dataset
    image_column: str
    row_ids: list[str]
    labels: list[Any] | None
    label_names: dict[Any, str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.row_ids)

    def read(self, row: int) -> tuple[Image.Image, int]:
        """The upright RGB image of a row and a 63-bit hash of its file; raises UnreadableImage."""
        return read_image(self.pictures[row][self.image_column])

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
    label_column: str | None = None,
    image_column: str | None = None,
    id_column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> LabelledImages:
    """Opens a data set of images.

    Args:
        data: A Parquet file or pattern, a folder of images or of Parquet files, a folder written by `save_to_disk`, or
            an id on the Hub (`name`, `owner/name`, with `:config` where the data set has several).
        label_column: Rows without a label (null) are left out and logged. None asks for no labels.
        image_column: By default `image`, else the only column of images.
        id_column: By default `image_id` or WebDataset's `__key__`; else file name or row number identify a row.
        split: Needed where the data set has several.
        limit: Keep the first rows only.

    Raises:
        FileNotFoundError: If there is no such file, folder or data set.
        ValueError: If a column or split is missing (the message lists those that exist) or no row is left.
    """
    rows = open_rows(data, split)
    image_column = find_image_column(rows, image_column, data)
    if label_column is not None:
        check_column(rows, label_column, data)
        rows = drop_unlabelled(rows, label_column, data)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    if not len(rows):
        raise ValueError(f"{data} has no rows to evaluate" + (f" with a {label_column!r}." if label_column else "."))
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    labels, names = read_labels(rows, label_column) if label_column is not None else (None, {})
    return LabelledImages(
        name=data,
        rows=rows,
        image_column=image_column,
        row_ids=read_row_ids(rows, id_column=id_column, image_column=image_column, data=data),
        labels=labels,
        label_names=names,
        fingerprint=rows._fingerprint,
    )


def share_labels(query: LabelledImages, gallery: LabelledImages | None) -> None:
    """Calls the classes of both by their names where the two data sets number them differently.

    Folders opened one by one count their subfolders each on its own, so that a class that one of them lacks would
    shift the numbers of those after it.
    """
    if gallery is None or query.labels is None or query.label_names == gallery.label_names:
        return
    has_names = [bool(images.label_names) or isinstance(images.labels[0], str) for images in (query, gallery)]
    if not all(has_names):
        return
    for images in (query, gallery):
        images.labels = [images.label_names.get(label, label) for label in images.labels]
        images.label_names = {}
    if not set(query.labels) & set(gallery.labels):
        raise ValueError(
            f"{query.name} and {gallery.name} have no class in common: {query.labels[0]!r}, ... and "
            f"{gallery.labels[0]!r}, ...; give data sets with the same classes."
        )


def open_rows(data: str, split: str | None) -> datasets.Dataset:
    """Finds the loader that fits `data` and opens one split."""
    path = Path(data)
    if path.is_dir():
        is_saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
        loaded = datasets.load_from_disk(data) if is_saved else datasets.load_dataset(data)
    elif files := sorted(glob.glob(data)):
        kinds = {Path(file).suffix for file in files}
        if kinds != {".parquet"}:
            raise ValueError(f"{data} is {', '.join(sorted(kinds))}; give Parquet files, a folder, or a data set id.")
        check_parquet(files)
        loaded = datasets.load_dataset("parquet", data_files=files)
    else:
        loaded = open_hub_rows(data)
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split is None and len(loaded) > 1:
        raise ValueError(f"{data} has the splits {', '.join(loaded)}; choose one with --split.")
    if split is not None and split not in loaded:
        raise ValueError(f"{data} has no split {split!r}, only {', '.join(loaded)}.")
    return loaded[split or next(iter(loaded))]


def check_parquet(files: list[str]) -> None:
    """Refuses files that are broken or hold no rows, by name; a loader over many files would not say which."""
    for file in files:
        try:
            num_rows = pq.read_metadata(file).num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a whole Parquet file; write it again. ({error})") from error
        if not num_rows and len(files) == 1:
            raise ValueError(f"{file} has no rows to evaluate.")


def open_hub_rows(data: str) -> datasets.DatasetDict:
    """Loads `name[:config]` from the Hub."""
    name, _, config_name = data.partition(":")
    if not HUB_ID.fullmatch(name) or Path(name).suffix in {".parquet", ".csv", ".json", ".jsonl", ".tar", ".zip"}:
        raise FileNotFoundError(f"{data} does not exist. Give a Parquet file, a folder of images, or a data set id.")
    try:
        return datasets.load_dataset(name, config_name or None)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{data} is neither here nor reachable as a data set on the Hub: {error}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{data} does not open: {reason} (One of several configurations: {name}:config.)") from error


def find_image_column(rows: datasets.Dataset, image_column: str | None, data: str) -> str:
    """The column that was asked for, else `image`, else the only column of images."""
    if image_column is None and "image" not in rows.column_names:
        columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        image_column = columns[0] if len(columns) == 1 else None
    check_column(rows, image_column or "image", data)
    return image_column or "image"


def check_column(rows: datasets.Dataset, column: str, data: str) -> None:
    """Raises a ValueError that lists the columns there are."""
    if column not in rows.column_names:
        near = difflib.get_close_matches(column, rows.column_names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{data} has no column {column!r}; it has {', '.join(rows.column_names)}.{hint}")


def drop_unlabelled(rows: datasets.Dataset, label_column: str, data: str) -> datasets.Dataset:
    """Leaves out rows whose label is null, and says how many."""
    kept = [row for row, label in enumerate(rows[label_column]) if label is not None]
    if len(kept) == len(rows):
        return rows
    logger.warning(
        "%s: %d of %d rows have no %s and are left out", data, len(rows) - len(kept), len(rows), label_column
    )
    return rows.select(kept)


def read_labels(rows: datasets.Dataset, label_column: str) -> tuple[list[Any], dict[Any, str]]:
    """Labels as strings or ints, and the class names of a ClassLabel column."""
    labels = list(rows[label_column])
    odd = next((label for label in labels if not isinstance(label, (str, int))), None)
    if odd is not None:
        raise ValueError(f"Column {label_column!r} holds a {type(odd).__name__}; a label must be a string or an int.")
    names = getattr(rows.features[label_column], "names", None) or []
    return labels, dict(enumerate(names))


def read_row_ids(rows: datasets.Dataset, *, id_column: str | None, image_column: str, data: str) -> list[str]:
    """One distinct string per row: the id column, else the file name, else the row number."""
    if id_column is None:
        id_column = next((name for name in ID_COLUMNS if name in rows.column_names), None)
    else:
        check_column(rows, id_column, data)
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


def read_image(image: dict[str, Any] | None) -> tuple[Image.Image, int]:
    """Decodes `{"bytes", "path"}` and hashes the file; raises UnreadableImage with the reason if it cannot."""
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise UnreadableImage("the row holds no image")
    try:
        content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels are more than {MAX_PIXELS}")
            decoded = to_rgb(opened)
    except Exception as error:  # Decoders raise nearly anything on broken files; the reason is kept and reported.
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error
    return decoded, int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1
