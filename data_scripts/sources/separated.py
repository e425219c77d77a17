"""Splits lines into the fields of CSV (quoted, so that a field may hold line breaks) and TSV (never quoted)."""

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


# A quoted field of more lines than this began with a stray quote.
MAX_LINES_PER_ROW = 1000
csv.field_size_limit(64_000_000)


class Line(NamedTuple):
    """A line of a file: the byte it starts at, its number from 1, and its bytes; None if it was too long to hold."""

    start: int
    number: int
    content: bytes | None

    @property
    def text(self) -> str:
        """Its text; what is no UTF-8 becomes U+FFFD, and a byte order mark goes."""
        return (self.content or b"").decode("utf-8", errors="replace").removeprefix("\ufeff")


class Row(NamedTuple):
    """A row: its first line, and for separated values its fields, or what is wrong with them."""

    start: int
    number: int
    content: bytes | None
    fields: list[str] | None = None
    error: str | None = None


def tsv_rows(lines: Iterator[Line], *, num_fields: int) -> Iterator[Row]:
    """Rows of TSV, a line each: a quote is a character as any other."""
    for line in lines:
        if line.content is None or line.content.strip(b"\r\n"):
            yield Row(*line, None if line.content is None else line.text.rstrip("\r\n").split("\t"))


def csv_rows(lines: Iterator[Line], *, num_fields: int) -> Iterator[Row]:
    """Rows of CSV.

    A field that opens with a quote may go on over lines. If that gives no row of `num_fields` fields (0: any number),
    the quote was a stray one: its line is a bad row, and the lines after it are read as rows of their own.
    """
    waiting: deque[Line] = deque()
    while line := (waiting.popleft() if waiting else next(lines, None)):
        if line.content is None:
            yield Row(*line)
        elif b'"' in line.content:
            row, taken = split_quoted(line, waiting, lines)
            is_whole = row.fields is not None and len(row.fields) in (num_fields, num_fields or len(row.fields))
            if taken and not is_whole:
                waiting.extendleft(reversed(taken))
                row = row._replace(fields=None, error=row.error or "a quote opens that is not closed in place")
            yield row
        elif line.content.strip(b"\r\n"):
            yield Row(*line, line.text.rstrip("\r\n").split(","))


def split_quoted(line: Line, waiting: deque[Line], lines: Iterator[Line]) -> tuple[Row, list[Line]]:
    """The row that begins with a line, and the further lines it took."""
    taken: list[Line] = []

    def feed() -> Iterator[str]:
        yield line.text
        while len(taken) < MAX_LINES_PER_ROW:
            following = waiting.popleft() if waiting else next(lines, None)
            if following is None:
                return
            taken.append(following)
            yield following.text

    try:
        return Row(*line, next(csv.reader(feed(), strict=True))), taken
    except (csv.Error, StopIteration) as error:
        return Row(*line, None, str(error)), taken
