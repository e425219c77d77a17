"""Reads a dump or JSONL in parts, several at once, each of which leaves a file: a build that was stopped goes on."""

import bz2
import gzip
import itertools
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_scripts.engine.engines import Engine
from data_scripts.knowledge_base.read_wikidata import Entity, OddRecord, read_record
from modeling_mofi.whole_files import try_read_json, write_json, write_whole


logger = logging.getLogger(__name__)

PART_BYTES = 1 << 25
OPENERS = {".gz": gzip.open, ".bz2": bz2.open}
# Lines that are no entity.
FRAME = (b"", b"[", b"]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_EXAMPLES = 5
SILENT_SECONDS = 5.0

TEXTS = pa.list_(pa.string())
PART = pa.schema(
    {
        "position": pa.int64(),
        "entity_id": pa.string(),
        "name": pa.string(),
        "description": pa.string(),
        "aliases": TEXTS,
        "num_sitelinks": pa.int32(),
        "types": TEXTS,
        "parents": TEXTS,
        "links": TEXTS,
        "has_image": pa.bool_(),
    }
)


class Part(NamedTuple):
    """Whole lines of a source, and the number of the first one."""

    index: int
    first_line: int
    lines: bytes


@dataclass(frozen=True)
class OddLines:
    """What is odd in a source: how often each reason, the numbers of its first lines, and how many may be."""

    source: str
    max_lines: int

    def check(self, odd: dict[str, list[int]]) -> None:
        """Raises ValueError if there are more than may be."""
        total = sum(count for count, *_ in odd.values())
        if total > self.max_lines:
            raise ValueError(
                f"{self.source} has {total:,} odd lines, more than --max_bad_lines {self.max_lines:,}: {describe(odd)}"
            )


def describe(odd: dict[str, list[int]]) -> str:
    """Counts and first line numbers by reason."""
    return "; ".join(
        f"{reason} ({count:,} times, first on line {', '.join(f'{line:,}' for line in lines)})"
        for reason, (count, *lines) in sorted(odd.items())
    )


def read_source(
    source: str, folder: Path, *, languages: tuple[str, ...], max_bad_lines: int, engine: Engine
) -> dict[str, int]:
    """Writes what a source says about each entity as `part-*.parquet`; finished parts are not parsed again.

    Returns:
        Counts: lines read, and those that are no named entity, by reason.

    Raises:
        ValueError: If a compressed source breaks off, more lines are odd than may be, or a line of one's own entities
            cannot be meant.
        ChildProcessError: If a worker died.
    """
    parse = partial(parse_part, folder=folder, languages=languages, source=source)
    counts: Counter[str] = Counter()
    odd: dict[str, list[int]] = {}
    limit = OddLines(source, max_bad_lines)
    logger.info(
        f"{source}: what is kept of {os.path.getsize(source) / 1e9:.1f} GB, at most as much, goes into {folder}"
    )
    with open_source(source) as file, progress_bar(source) as bar:
        parts = read_ahead(read_parts(file, source))
        for found in engine.run(parse, parts, name_of=lambda part: f"part {part.index} of {source}"):
            counts.update(found["counts"])
            for reason, (count, *lines) in found["odd"].items():
                before = odd.setdefault(reason, [0])
                odd[reason] = [before[0] + count, *sorted(before[1:] + lines)[:MAX_EXAMPLES]]
            limit.check(odd)
            advance(bar, file, counts["read"])
    if odd:
        logger.warning("%s: odd lines passed over: %s", source, describe(odd))
    counts.update({f"odd: {reason}": count for reason, (count, *_) in odd.items()})
    return dict(counts)


class Source(NamedTuple):
    """An opened source: its bytes, and the file on disk, which tells how far reading has come."""

    content: BinaryIO
    raw: BinaryIO


@contextmanager
def open_source(source: str) -> Iterator[Source]:
    """Opens a plain, gzip or bzip2 file."""
    opener = OPENERS.get(Path(source).suffix)
    with Path(source).open("rb") as raw:
        yield Source(opener(raw, "rb") if opener else raw, raw)


def progress_bar(source: str) -> tqdm:
    """Bytes of the source, compressed as they are, so that the end can be told."""
    size, name = os.path.getsize(source), Path(source).name
    return tqdm(total=size, desc=name, unit="B", unit_scale=True, delay=SILENT_SECONDS)


def advance(bar: tqdm, source: Source, num_read: int) -> None:
    """Shows how far reading has come, and entities a second."""
    seconds = max(time.time() - bar.start_t, 1e-3)
    bar.set_postfix_str(f"{num_read:,} entities, {num_read / seconds:,.0f}/s", refresh=False)
    bar.update(source.raw.tell() - bar.n)


def read_parts(source: Source, name: str) -> Iterator[Part]:
    """Yields whole lines, `PART_BYTES` at a time.

    Raises:
        ValueError: If a source breaks off or is damaged.
    """
    rest, line, is_list, ending = b"", 1, None, b""
    for index in itertools.count():
        try:
            block = source.content.read(PART_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{name} breaks off or is damaged ({error}); get the file again") from error
        if is_list is None:
            block = block.removeprefix(BYTE_ORDER_MARK)
            is_list = block.lstrip().startswith(b"[")
        lines, newline, rest_of_block = block.rpartition(b"\n")
        if block and not newline:
            rest += block
            continue
        lines, rest = rest + lines + newline, rest_of_block if block else b""
        ending = (ending + lines)[-64:]
        if lines:
            yield Part(index, line, lines)
        line += lines.count(b"\n")
        if not block:
            break
    last = ending.rstrip()
    if is_list and not last.endswith(b"]"):
        raise ValueError(f"{name} breaks off on line {line:,}: a dump ends in `]`; get the file again")


def read_ahead(parts: Iterator[Part]) -> Iterator[Part]:
    """Reads the next part while others are parsed."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = pool.submit(next, parts, None)
            yield part


def parse_part(part: Part, *, folder: Path, languages: tuple[str, ...], source: str) -> dict:
    """Parses one part and commits it, counts last; a part that has its counts is left alone.

    Returns:
        `counts` by reason, and `odd`: by reason, how many lines and the numbers of the first ones.
    """
    table_path, counts_path = folder / f"part-{part.index:06d}.parquet", folder / f"part-{part.index:06d}.json"
    finished = try_read_json(counts_path)
    if finished is not None and count_rows(table_path) == finished["rows"]:
        return finished
    counts: Counter[str] = Counter()
    odd: dict[str, list[int]] = {}
    entities: list[Entity] = []
    for number, line in enumerate(part.lines.split(b"\n"), start=part.first_line):
        line = line.strip().rstrip(b",")
        if line in FRAME:
            continue
        counts["read"] += 1
        try:
            entity = read_record(parse_line(line), languages=languages)
        except OddRecord as error:
            count, *lines = odd.get(str(error), [0])
            odd[str(error)] = [count + 1, *(*lines, number)[:MAX_EXAMPLES]]
            continue
        except ValueError as error:
            raise ValueError(f"{source} line {number:,}: {error}") from None
        if isinstance(entity, str):
            counts[entity] += 1
        elif entity["name"] or entity["parents"]:
            entities.append(entity | {"position": number})
        else:
            counts[f"no name in {languages[0]}"] += 1
    write_table(table_path, pa.Table.from_pylist(entities, schema=PART))
    result = {"counts": dict(counts), "odd": odd, "rows": len(entities)}
    write_json(counts_path, result)
    return result


def parse_line(line: bytes) -> object:
    """One line of JSON; invalid UTF-8 becomes U+FFFD.

    Raises:
        OddRecord: If it is no JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return orjson.loads(line.decode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            raise OddRecord("line is no JSON") from None


def copy_knowledge_base(source: Path, folder: Path) -> None:
    """Writes the entities of a built knowledge base as parts."""
    first = 0
    entities = pa.ipc.open_file(pa.memory_map(str(source / "entities.arrow")))
    for index in range(entities.num_record_batches):
        batch = entities.get_batch(index)
        numbers = {"position": pa.array(range(first, first + len(batch))), "parents": pa.nulls(len(batch), TEXTS)}
        columns = [numbers[name] if name in numbers else batch[name] for name in PART.names]
        arrays = [column.cast(field.type) for column, field in zip(columns, PART, strict=True)]
        write_table(folder / f"part-{index:06d}.parquet", pa.table(arrays, schema=PART))
        first += len(batch)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes the entities of a part in one piece."""
    with write_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet file; None if it is missing or was cut short."""
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowInvalid):
        return None
