"""Reads image and alt-text pairs: Parquet, WebDataset tars, JSONL or CSV, an image folder, a data set on the Hub.

A source is first planned into shards, then read shard by shard, each in bounded memory. The text phase asks for texts
and opens no image; the image phase asks for the images of the rows that are left.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_scripts.schema import NOTE, Batch, Shard
from data_scripts.sources.hub import read_hub
from data_scripts.sources.lines import read_lines
from data_scripts.sources.parquet import read_parquet
from data_scripts.sources.tars import read_tars


# C0 controls and lone surrogates, which neither Arrow nor a tokenizer takes; each becomes one character.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
READERS = {"parquet": read_parquet, "tar": read_tars, "lines": read_lines, "hub": read_hub}
IMAGE_BATCH_SIZE = 64


@dataclass(frozen=True)
class PairColumns:
    """Which columns of the source hold what; no other column is read.

    Attributes:
        image_id: None makes an id from the place in the plan.
        keep: Columns that are passed through to the data set.
        image_root: Folder that image paths are relative to; that of the file by default.
        max_text_length: Characters; longer texts are cut.
        max_image_bytes: Larger files are dropped unread.
    """

    image_id: str | None = None
    image: str = "image"
    alt_text: str = "alt_text"
    keep: tuple[str, ...] = ()
    image_root: str | None = None
    max_text_length: int = 4096
    max_image_bytes: int = 100_000_000


def read_pairs(shard: Shard, *, columns: PairColumns, batch_size: int = 1000) -> Iterator[Batch]:
    """Yields batches of `image_id`, `row`, `alt_text` and the kept columns; texts are clean, long ones are cut.

    Raises:
        ValueError: If a column is missing from the source.
    """
    wanted = [name for name in (columns.image_id, columns.alt_text, *columns.keep) if name is not None]
    read = READERS[shard.format]
    for rows, table in read(shard, names=list(dict.fromkeys(wanted)), batch_size=batch_size, rows=None):
        batch: Batch = {"image_id": [default_image_id(shard, row) for row in rows], "row": rows}
        if columns.image_id is not None:
            ids = zip(table[columns.image_id], batch["image_id"], strict=True)
            batch["image_id"] = [default if found is None else clean_text(found) for found, default in ids]
        texts = [clean_text(text) for text in table[columns.alt_text]]
        batch["alt_text"] = [text[: columns.max_text_length] for text in texts]
        batch |= {name: table[name] for name in columns.keep}
        batch[NOTE] = ["text cut short" if len(text) > columns.max_text_length else None for text in texts]
        yield batch


def read_images(shard: Shard, *, columns: PairColumns, rows: Sequence[int]) -> Iterator[tuple[int, bytes | str]]:
    """Yields `(row, encoded image)` for some rows of a shard, ascending.

    An image that cannot be had comes as a string, the reason: one bad row costs itself and no other.
    """
    read = READERS[shard.format]
    for found, table in read(shard, names=[columns.image], batch_size=IMAGE_BATCH_SIZE, rows=list(rows)):
        for row, value in zip(found, table[columns.image], strict=True):
            yield row, image_bytes(value, columns=columns, folder=Path(shard.path).parent)


def image_bytes(value: Any, *, columns: PairColumns, folder: Path) -> bytes | str:
    """The encoded image behind a cell: bytes, `{bytes, path}` or a path; a reason where there is none."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "image file too large" if len(value) > columns.max_image_bytes else bytes(value)
    if value is not None:
        return f"image column holds a {type(value).__name__}"
    if not path:
        return "no image"
    return read_image_file(path, root=Path(columns.image_root or folder), max_bytes=columns.max_image_bytes)


def read_image_file(path: str, *, root: Path, max_bytes: int) -> bytes | str:
    """Reads an image below a folder; a path that leads out of it is refused.

    Raises:
        ValueError: If the path is a URL.
    """
    if re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
        raise ValueError(
            f"image {path!r} is a URL, and URLs are not fetched. Download the images first, for example with "
            "img2dataset, and give its tar files as --pairs."
        )
    try:
        full = (root / path).resolve()
        if not full.is_relative_to(root.resolve()):
            return "image path outside the folder"
        return "image file too large" if full.stat().st_size > max_bytes else full.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return "image file missing"


def clean_text(text: Any) -> str:
    """A text without control characters and lone surrogates, each replaced by one character; '' for what is none."""
    if text is None:
        return ""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    if isinstance(text, (list, tuple)):
        return clean_text(text[0]) if text else ""
    return UNPRINTABLE.sub("\ufffd", str(text))


def default_image_id(shard: Shard, row: int) -> str:
    """An id for a row without one: its place in the plan."""
    return f"{shard.index:06d}-{row:09d}"
