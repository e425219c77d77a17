"""Reads image and alt-text pairs: Parquet, WebDataset tars, JSONL or CSV, an image folder, a data set on the Hub.

A source is first planned into shards, then read shard by shard, each in bounded memory. The text phase asks for texts
and opens no image; the image phase asks for the images of the rows that are left.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_scripts.arguments import SourceArguments
from data_scripts.schema import NOTE, Batch, Shard
from data_scripts.sources.hub import read_hub
from data_scripts.sources.lines import read_lines
from data_scripts.sources.parquet import read_parquet
from data_scripts.sources.tars import read_tars


# C0 controls and lone surrogates, which neither Arrow nor a tokenizer takes; each becomes one character.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
READERS = {"parquet": read_parquet, "tar": read_tars, "lines": read_lines, "hub": read_hub}
IMAGE_BATCH_SIZE = 64
MAX_IMAGE_BYTES = 100_000_000  # Larger files are dropped unread.


def read_pairs(shard: Shard, *, source: SourceArguments, batch_size: int = 1000) -> Iterator[Batch]:
    """Yields batches of `image_id`, `row`, `alt_text` and the kept columns; texts are clean, long ones are cut.

    Raises:
        ValueError: If a column is missing from the source.
    """
    id_column, text_column, limit = source.image_id_column, source.alt_text_column, source.max_text_length
    wanted = [name for name in (id_column, text_column, *source.keep_columns) if name is not None]
    read = READERS[shard.format]
    batches = read(shard, names=list(dict.fromkeys(wanted)), batch_size=batch_size, rows=None)
    for rows, table in batches if shard.max_rows is None else first_rows(batches, shard.max_rows):
        batch: Batch = {"image_id": [default_image_id(shard, row) for row in rows], "row": rows}
        if id_column is not None:
            ids = zip(table[id_column], batch["image_id"], strict=True)
            batch["image_id"] = [default if found is None else clean_text(found) for found, default in ids]
        texts = [clean_text(text) for text in table[text_column]]
        batch["alt_text"] = [text[:limit] for text in texts]
        batch |= {name: table[name] for name in source.keep_columns}
        batch[NOTE] = ["text cut short" if len(text) > limit else None for text in texts]
        yield batch


def first_rows(batches: Iterable[tuple[list[int], Batch]], max_rows: int) -> Iterator[tuple[list[int], Batch]]:
    """The batches up to a row, and no more of them than it takes."""
    for rows, table in batches:
        number = bisect_left(rows, max_rows)
        if number:
            yield rows[:number], {name: column[:number] for name, column in table.items()}
        if rows[-1] + 1 >= max_rows:
            return


def read_images(shard: Shard, *, source: SourceArguments, rows: Sequence[int]) -> Iterator[tuple[int, bytes | str]]:
    """Yields `(row, encoded image)` for some rows of a shard, ascending.

    An image that cannot be had comes as a string, the reason: one bad row costs itself and no other.
    """
    read = READERS[shard.format]
    root = Path(source.image_root or Path(shard.path).parent)
    for found, table in read(shard, names=[source.image_column], batch_size=IMAGE_BATCH_SIZE, rows=list(rows)):
        for row, value in zip(found, table[source.image_column], strict=True):
            yield row, image_bytes(value, root=root)


def image_bytes(value: Any, *, root: Path) -> bytes | str:
    """The encoded image behind a cell: bytes, `{bytes, path}` or a path; a reason where there is none."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "image file too large" if len(value) > MAX_IMAGE_BYTES else bytes(value)
    if value is not None:
        return f"image column holds a {type(value).__name__}"
    if not path:
        return "no image"
    return read_image_file(path, root=root)


def read_image_file(path: str, *, root: Path) -> bytes | str:
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
        return "image file too large" if full.stat().st_size > MAX_IMAGE_BYTES else full.read_bytes()
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
