"""Reads image and alt-text pairs: Parquet, WebDataset tars, JSONL or CSV, an image folder, a dataset on the Hub.

A source is first planned into shards, then read shard by shard, each in bounded memory. The text phase asks for texts
and opens no image; the image phase asks for the images of the rows that are left.
"""

import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_scripts.arguments import SourceArguments
from data_scripts.schema import DROP_REASON, ERROR, NOTE, Batch, Shard
from data_scripts.sources.hub import read_hub
from data_scripts.sources.images import image_bytes
from data_scripts.sources.lines import read_lines
from data_scripts.sources.parquet import read_parquet
from data_scripts.sources.tars import read_tars
from modeling_mofi.data.images import UnreadableImage


# C0 controls and lone surrogates, which neither Arrow nor a tokenizer takes; each becomes one character.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
READERS = {"parquet": read_parquet, "tar": read_tars, "lines": read_lines, "hub": read_hub}
TYPED_FORMATS = ("parquet", "hub")
IMAGE_BATCH_SIZE = 64
MAX_TEXT_LENGTH = 1_000_000  # Characters; spaCy raises an error at longer texts.


def read_pairs(shard: Shard, *, source: SourceArguments, batch_size: int = 1000) -> Iterator[Batch]:
    """Yields batches of `image_id`, `row`, `alt_text` and the kept columns; texts are clean, long ones are cut.

    Rows that cannot be read are among them, with a drop reason and what exactly was wrong.

    Raises:
        ValueError: If a column is missing from the source.
    """
    id_column, text_column = source.image_id_column, source.alt_text_column
    limit = min(source.max_text_length, MAX_TEXT_LENGTH)
    wanted = [name for name in (id_column, text_column, *source.keep_columns) if name is not None]
    read = READERS[shard.format]
    batches = read(shard, names=list(dict.fromkeys(wanted)), batch_size=batch_size, rows=None)
    for rows, table in batches if shard.max_rows is None else first_rows(batches, shard.max_rows):
        batch: Batch = {"image_id": [default_image_id(shard, row) for row in rows], "row": rows}
        if id_column is not None:
            ids = zip(table[id_column], batch["image_id"], strict=True)
            batch["image_id"] = [default if found is None else to_text(found) for found, default in ids]
        for name in source.keep_columns:
            values = table[name]
            batch[name] = values if shard.format in TYPED_FORMATS else [kept_text(value) for value in values]
        texts = table[text_column]
        cleaned = [clean_text(text) for text in texts]
        batch["alt_text"] = [text[:limit] for text in cleaned]
        nothing = [None] * len(rows)
        batch[DROP_REASON] = list(table.get(DROP_REASON, nothing))
        batch[ERROR] = table.get(ERROR, nothing)
        notes = zip(table.get(NOTE, nothing), cleaned, strict=True)
        batch[NOTE] = [note or ("text cut short" if len(text) > limit else None) for note, text in notes]
        for place, text in enumerate(texts):
            if text.__class__ is not str:
                batch[DROP_REASON][place] = batch[DROP_REASON][place] or reason_of(text)
                batch[NOTE][place] = batch[NOTE][place] or note_on(text)
        yield batch


def first_rows(batches: Iterable[tuple[list[int], Batch]], max_rows: int) -> Iterator[tuple[list[int], Batch]]:
    """The batches up to a row, and no more of them than it takes."""
    for rows, table in batches:
        number = bisect_left(rows, max_rows)
        if number:
            yield rows[:number], {name: column[:number] for name, column in table.items()}
        if rows[-1] + 1 >= max_rows:
            return


def read_images(
    shard: Shard, *, source: SourceArguments, rows: Sequence[int]
) -> Iterator[tuple[int, bytes | UnreadableImage]]:
    """Yields `(row, encoded image)` for some rows of a shard, ascending.

    An image that cannot be read comes as its error, so that one bad row stops no other.
    """
    read = READERS[shard.format]
    root = os.path.realpath(source.image_root or Path(shard.path).parent)
    for found, table in read(shard, names=[source.image_column], batch_size=IMAGE_BATCH_SIZE, rows=list(rows)):
        nothing = [None] * len(found)
        reasons, errors = table.get(DROP_REASON, nothing), table.get(ERROR, nothing)
        for row, cell, reason, error in zip(found, table[source.image_column], reasons, errors, strict=True):
            yield row, UnreadableImage(reason, error or "") if reason else read_cell(cell, root=root)


def read_cell(cell: Any, *, root: str) -> bytes | UnreadableImage:
    """The encoded image behind a cell, or why there is none."""
    try:
        return image_bytes(cell, root=root)
    except UnreadableImage as error:
        return UnreadableImage(str(error), error.detail)


def clean_text(text: Any) -> str:
    """A text without control characters and lone surrogates, each replaced by one character; '' if it is no text.

    Of a list of texts it is the first one.
    """
    if text.__class__ is str:
        return UNPRINTABLE.sub("\ufffd", text)
    if isinstance(text, (list, tuple)):
        text = next((element for element in text if isinstance(element, (str, bytes))), None)
    if text is None or text != text or isinstance(text, (dict, bool)):  # NaN is what pandas makes of a missing text.
        return ""
    return to_text(text)


def to_text(value: Any) -> str:
    """Any value as text that Arrow and tokenizers take: what JSON cannot say, such as a date, as Python writes it."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    is_json = isinstance(value, (dict, list, tuple, bool, int, float, type(None)))
    text = json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)
    return UNPRINTABLE.sub("\ufffd", text)


def kept_text(value: Any) -> str | None:
    """A value of a format without types: text as it is, anything else as JSON."""
    return None if value is None else to_text(value)


def reason_of(text: Any) -> str | None:
    """Why a row cannot be used whose text is of another type."""
    return "alt-text is no text" if isinstance(text, (dict, bool)) else None


def note_on(text: Any) -> str | None:
    """What is lost of several texts."""
    return "only the first of several texts kept" if isinstance(text, (list, tuple)) and len(text) > 1 else None


def default_image_id(shard: Shard, row: int) -> str:
    """An id for a row without one: its place in the plan."""
    return f"{shard.index:06d}-{row:09d}"
