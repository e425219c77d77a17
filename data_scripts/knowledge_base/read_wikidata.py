"""Reads entities from a Wikidata JSON dump or from JSONL, part by part, so that an interrupted reading resumes."""

import bz2
import gzip
import itertools
import json
import logging
import multiprocessing
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa
import yaml

from data_scripts.text.tokens import alias_key
from modeling_mofi.whole_files import try_read_json, write_json, write_whole


logger = logging.getLogger(__name__)

LINES_PER_PART = 20_000
TYPE_PROPERTIES = ("P31", "P279")
OPENERS = {".gz": gzip.open, ".bz2": bz2.open}

Entity = dict[str, object]


def read_entities(
    source: str,
    folder: Path,
    *,
    schema: pa.Schema,
    language: str,
    exclusions: dict[str, str],
    min_sitelinks: int,
    num_processes: int = 1,
) -> dict[str, int]:
    """Writes the kept entities of a source as `part-*.arrow` in a folder; finished parts are not parsed again.

    Args:
        exclusions: Type id to the reason why its instances are left out.

    Returns:
        Counts: entities read, kept, and dropped by reason.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If a line is not what the format says, with its number.
    """
    if not Path(source).is_file():
        raise FileNotFoundError(f"knowledge base source {source} does not exist")
    parse = partial(
        parse_part,
        folder=folder,
        schema=schema,
        language=language,
        exclusions=exclusions,
        min_sitelinks=min_sitelinks,
        source=source,
    )
    totals: Counter[str] = Counter()
    parts = enumerate(read_parts(source))
    if num_processes == 1:
        for counts in map(parse, parts):
            totals.update(counts)
        return dict(sorted(totals.items()))
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        for counts in pool.imap(parse, parts):
            totals.update(counts)
    return dict(sorted(totals.items()))


def read_parts(source: str) -> Iterator[list[str]]:
    """Yields the lines of a source, `LINES_PER_PART` at a time.

    Raises:
        ValueError: If a compressed source breaks off or is damaged.
    """
    with open_text(source) as lines:
        try:
            while part := list(itertools.islice(lines, LINES_PER_PART)):
                yield part
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{source} breaks off or is damaged ({error}); get the file again") from error


def open_text(source: str) -> IO[str]:
    """Opens a plain, gzip or bzip2 text file; invalid UTF-8 becomes U+FFFD."""
    opener = OPENERS.get(Path(source).suffix, open)
    return opener(source, "rt", encoding="utf-8", errors="replace")


def parse_part(
    part: tuple[int, list[str]],
    *,
    folder: Path,
    schema: pa.Schema,
    language: str,
    exclusions: dict[str, str],
    min_sitelinks: int,
    source: str,
) -> dict[str, int]:
    """Parses one part of the source and commits it, counts last; a part that has its counts is left alone."""
    index, lines = part
    table_path, counts_path = folder / f"part-{index:06d}.arrow", folder / f"part-{index:06d}.json"
    finished = try_read_json(counts_path)
    if finished is not None and count_rows(table_path) == finished.get("kept", 0):
        return finished
    counts: Counter[str] = Counter()
    kept: list[Entity] = []
    for offset, line in enumerate(lines):
        line = line.strip().rstrip(",")
        if line in ("", "[", "]"):
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            number = index * LINES_PER_PART + offset + 1
            raise ValueError(
                f"{source} line {number:,} is not JSON ({error}); expected one entity a line. If it is the last line, "
                "the file breaks off there: get it again."
            ) from None
        entity, reason = read_record(record, language=language, exclusions=exclusions, min_sitelinks=min_sitelinks)
        counts["read"] += 1
        counts[reason or "kept"] += 1
        if entity is not None and reason is None:
            kept.append(entity)
    with write_whole(table_path) as path, pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(pa.Table.from_pylist(kept, schema=schema))
    write_json(counts_path, dict(counts))
    return dict(counts)


def count_rows(path: Path) -> int | None:
    """Rows of an Arrow file; None if it is missing or was cut short."""
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all().num_rows
    except (OSError, pa.ArrowInvalid):
        return None


def read_record(
    record: dict, *, language: str, exclusions: dict[str, str], min_sitelinks: int
) -> tuple[Entity | None, str | None]:
    """One line of a source as an entity, or None with the reason why it is left out."""
    if "entity_id" in record:
        entity = read_plain_record(record)
    elif "redirect" in record:
        return None, "is a redirect"
    elif record.get("type", "item") != "item":
        return None, f"is a {record['type']}"
    elif "id" in record:
        entity = read_wikidata_record(record, language=language)
    else:
        raise ValueError(f"an entity needs `entity_id` (JSONL) or `id` (Wikidata), got the keys {sorted(record)[:8]}")
    if not entity["name"]:
        return None, f"no name in {language}"
    for type_id in entity["types"]:
        if type_id in exclusions:
            return None, exclusions[type_id]
    if entity["num_sitelinks"] < min_sitelinks:
        return None, f"fewer than {min_sitelinks} sitelinks"
    return entity, None


def read_plain_record(record: dict) -> Entity:
    """A JSONL line `{entity_id, name, description, aliases[, num_sitelinks, types, links]}`."""
    return {
        "entity_id": str(record["entity_id"]),
        "name": (record.get("name") or "").strip(),
        "description": (record.get("description") or "").strip(),
        "aliases": [alias for alias in record.get("aliases") or [] if alias],
        "num_sitelinks": int(record.get("num_sitelinks") or 0),
        "types": list(record.get("types") or []),
        "links": list(record.get("links") or []),
    }


def read_wikidata_record(record: dict, *, language: str) -> Entity:
    """An item of the dump in one language.

    A regional language (`pt-br`) falls back to its own (`pt`), and every language to `mul`, as Wikidata shows it.
    """
    languages = tuple(dict.fromkeys((language, language.partition("-")[0], "mul")))
    claims = record.get("claims") or {}
    types = [target for name in TYPE_PROPERTIES for target in claim_targets(claims.get(name, ()))]
    links = (target for name in claims if name not in TYPE_PROPERTIES for target in claim_targets(claims[name]))
    aliases = record.get("aliases") or {}
    return {
        "entity_id": record["id"],
        "name": term(record.get("labels") or {}, languages),
        "description": term(record.get("descriptions") or {}, languages),
        "aliases": [entry["value"] for code in languages for entry in aliases.get(code, ())],
        "num_sitelinks": len(record.get("sitelinks") or {}),
        "types": list(dict.fromkeys(types)),
        "links": list(dict.fromkeys(links)),
    }


def term(terms: dict, languages: Iterable[str]) -> str:
    """A label or description in the first language that has one, else nothing."""
    found = next((terms[code] for code in languages if terms.get(code)), {})
    return found.get("value", "").strip()


def claim_targets(statements: Iterable[dict]) -> Iterator[str]:
    """Ids of the items that statements point to; deprecated ones and those without a value are passed over."""
    for statement in statements:
        snak = statement.get("mainsnak") or {}
        if statement.get("rank") == "deprecated" or snak.get("snaktype") != "value":
            continue
        value = snak.get("datavalue") or {}
        if value.get("type") == "wikibase-entityid" and value["value"].get("entity-type", "item") == "item":
            yield value["value"].get("id") or f"Q{value['value']['numeric-id']}"


def read_exclusions(path: str | None) -> dict[str, str]:
    """Reads the list of `{type, name, reason}`: which types are left out, and why.

    Raises:
        ValueError: If an entry lacks its type or its reason.
    """
    if path is None:
        return {}
    entries = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or []
    for entry in entries:
        if not isinstance(entry, dict) or not {"type", "name", "reason"} <= entry.keys():
            raise ValueError(f"{path}: every entry needs type, name and reason, got {entry!r}")
    return {entry["type"]: f"is a {entry['name']}" for entry in entries}


def read_anchor_counts(path: str) -> dict[tuple[str, str], int]:
    """Reads `alias <tab> entity_id <tab> count`.

    Raises:
        ValueError: If a line has another form.
    """
    counts: dict[tuple[str, str], int] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 3 or not fields[2].isdigit():
                raise ValueError(f"{path} line {number}: expected `alias <tab> entity_id <tab> count`, got {line!r}")
            pair = (alias_key(fields[0]), fields[1])
            counts[pair] = counts.get(pair, 0) + int(fields[2])
    return counts
