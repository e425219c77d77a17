"""Reads pairs from WebDataset tars in img2dataset's layout: `KEY.jpg`, `KEY.txt`, `KEY.json` beside one another."""

import itertools
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard
from data_scripts.sources.lines import DECODE
from data_scripts.sources.records import Record, batch_records, check_columns
from data_scripts.sources.tar_members import (
    GZIP_MARK,
    OTHER_MARKS,
    STREAM_ERRORS,
    Damage,
    open_tar,
    read_mark,
    read_member,
    walk_tar,
)


logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ("avif", "bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
KEY_COLUMN, RECORD_EXTENSION = "__key__", "json"
# What the default column names stand for, where a tar has no member and no key of that name.
IMAGE_COLUMN, ALT_TEXT_COLUMN, TEXT_EXTENSION = "image", "alt_text", "txt"
MAX_MEMBER_BYTES = 100_000_000
MAX_RECORD_BYTES = 16_000_000
SAMPLES_TO_LOOK_AT = 1000

Members = dict[str, list[str]]


@dataclass
class Sample:
    """Members of one key.

    Attributes:
        place: Which of several joined tars, and the key.
        extensions: Of all its members, read or not.
        contents: Of the members that were wanted, by extension.
        faults: Why a wanted member was not read, by extension.
    """

    place: tuple[int, str]
    extensions: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def plan_tars(paths: list[str], *, image_column: str, alt_text_column: str, names: list[str]) -> list[Shard]:
    """One shard per tar; finds out for each column whether a member or a key of the `.json` holds it.

    Raises:
        ValueError: If a tar is cut short, or none of its first samples has a column.
    """
    shards: list[Shard] = []
    members: Members | None = None
    for path in paths:
        check_tail(path)
        extensions, keys = look_at_samples(path, names)
        if not extensions:
            logger.warning("%s has no samples", path)
            continue
        found = find_members(names, extensions, keys, image_column=image_column, alt_text_column=alt_text_column)
        # The first tar decides, so that a column is the same thing in all of them.
        members = found if members is None else members
        available = [KEY_COLUMN, *extensions, *(key for key in keys if key not in extensions)]
        available += [name for name, kinds in members.items() if not extensions.keys().isdisjoint(kinds)]
        check_columns(names, list(dict.fromkeys(available)), path=path)
        options = {"members": members, "image_column": image_column, "alt_text_column": alt_text_column}
        shards.append(Shard(len(shards), "tar", path, fingerprint=fingerprint_file(path), options=options))
    return shards


def check_tail(path: str) -> None:
    """Refuses an uncompressed tar that does not end in zeros: the commonest damage, seen before any work.

    Raises:
        ValueError: If the file is cut short.
    """
    size = os.path.getsize(path)
    if read_mark(path) not in (GZIP_MARK, *OTHER_MARKS):
        with open(path, "rb") as file:
            file.seek(max(0, size - tarfile.BLOCKSIZE))
            if size == 0 or file.read().strip(b"\0"):
                raise ValueError(f"{path} is not a whole tar file (no end mark at byte {size:,}); download it again")


def look_at_samples(path: str, names: Sequence[str]) -> tuple[dict[str, None], dict[str, None]]:
    """Extensions and keys of the `.json` in the first samples, until all names are among them."""
    extensions: dict[str, None] = {}
    keys: dict[str, None] = {}
    samples = (sample for sample in read_samples(path, wanted={RECORD_EXTENSION}) if isinstance(sample, Sample))
    for sample in itertools.islice(samples, SAMPLES_TO_LOOK_AT):
        extensions |= dict.fromkeys(sample.extensions)
        keys |= dict.fromkeys(read_record(sample)[0])
        stands_for = {IMAGE_COLUMN: IMAGE_EXTENSIONS, ALT_TEXT_COLUMN: (TEXT_EXTENSION,)}
        known = {KEY_COLUMN, *extensions, *keys}
        if all(name in known or not known.isdisjoint(stands_for.get(name, ())) for name in names):
            break
    return extensions, keys


def find_members(
    names: Sequence[str],
    extensions: dict[str, None],
    keys: dict[str, None],
    *,
    image_column: str,
    alt_text_column: str,
) -> Members:
    """The extensions that each column stands for; columns that are keys of the `.json` are not among them."""
    members = {name: [name] for name in names if name in extensions}
    if image_column in ("jpg", "jpeg") and not extensions.keys().isdisjoint(("jpg", "jpeg")):
        members[image_column] = list(dict.fromkeys((image_column, "jpg", "jpeg")))
    if image_column == IMAGE_COLUMN and image_column not in members:
        members[image_column] = list(IMAGE_EXTENSIONS)
    if alt_text_column == ALT_TEXT_COLUMN and alt_text_column not in {*members, *keys}:
        members[alt_text_column] = [TEXT_EXTENSION]
    return members


def read_tars(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions and columns; members that hold none of the columns are passed over.

    A place where the tar is damaged is a row with a reason: one row at least is lost there.

    Raises:
        ValueError: If the members of a sample do not lie beside one another.
    """
    yield from batch_records(read_records(shard, names, rows), names=names, batch_size=batch_size)


def read_records(shard: Shard, names: list[str], rows: list[int] | None) -> Iterator[tuple[int, Record]]:
    """Samples of a tar, and its damages, as numbered rows."""
    members: Members = shard.options["members"]
    extensions = {extension for name in names for extension in members.get(name, ())}
    if any(name not in members and name != KEY_COLUMN for name in names):
        extensions.add(RECORD_EXTENSION)
    required = [set(kinds) for kinds in members.values()] if rows is None else []
    wanted = None if rows is None else set(rows)
    samples = read_samples(shard.path, wanted=extensions, required=required)
    for position, sample in enumerate(samples):
        if rows is not None and (not rows or position > rows[-1]):
            return
        if wanted is not None and position not in wanted:
            continue
        if isinstance(sample, Damage):
            yield position, Record({}, "damaged tar", str(sample))
        else:
            yield position, to_record(sample, names, shard)


def read_samples(path: str, *, wanted: set[str], required: Sequence[set[str]] = ()) -> Iterator[Sample | Damage]:
    """Groups neighbouring members of a tar by their name up to the first dot.

    Args:
        wanted: Extensions of the members that are read.
        required: Extensions of which a whole sample has one of each set.

    Raises:
        ValueError: If a sample that is not whole goes on elsewhere in the tar.
    """
    sample: Sample | None = None
    damages: list[Damage] = []
    unfinished: set[tuple[int, str]] = set()
    with open_tar(path) as tar:
        for member in walk_tar(tar):
            if isinstance(member, Damage):
                damages.append(member)
                continue
            name = split_name(member.info.name)
            if name is None:
                continue
            place, extension = (member.archive, name[0]), name[1]
            if sample is None or sample.place != place:
                yield from [*([sample] if sample else []), *damages]
                if sample and not all(kinds.intersection(sample.extensions) for kinds in required):
                    unfinished.add(sample.place)
                if place in unfinished:
                    raise ValueError(
                        f"{path}: files of sample {name[0]!r} do not lie beside one another (another one at byte "
                        f"{member.info.offset:,}). Pack the tar anew, for example with `tar --sort=name`."
                    )
                sample, damages = Sample(place), []
            sample.extensions.append(extension)
            if extension in wanted:
                try:
                    add_content(sample, tar, member.info, extension)
                except (tarfile.ReadError, *STREAM_ERRORS) as error:
                    damages.append(Damage(member.info.offset, str(error)))
                    break
    yield from [*([sample] if sample else []), *damages]


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member; None for what is no data (`._a.jpg` and `__MACOSX/` of a Mac, `.cache/`)."""
    may_be_hidden = name.startswith((".", "__")) or "/." in name or "/__" in name
    if may_be_hidden and any(part.startswith((".", "__")) and part.strip(".") for part in name.split("/")):
        return None
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def add_content(sample: Sample, tar: tarfile.TarFile, info: tarfile.TarInfo, extension: str) -> None:
    """Reads one member into its sample, unless its header says that it is too large."""
    is_image = extension.rpartition(".")[2] in IMAGE_EXTENSIONS
    if info.size > (MAX_MEMBER_BYTES if is_image else MAX_RECORD_BYTES):
        sample.faults[extension] = "image file too large" if is_image else f"{extension} member too large"
    else:
        sample.contents[extension] = read_member(tar, info)


def to_record(sample: Sample, names: list[str], shard: Shard) -> Record:
    """The columns of a sample, or why it cannot be used."""
    members: Members = shard.options["members"]
    record, fault = read_record(sample)
    note = fault
    values: dict[str, Any] = {}
    for name in names:
        if name == KEY_COLUMN:
            values[name] = sample.place[1]
        elif name in members:
            found = [kind for kind in members[name] if kind in sample.extensions]
            if name == shard.options["image_column"] and name == IMAGE_COLUMN and len(set(found)) > 1:
                return Record({}, "several images in a sample", f"{sample.place[1]}: {', '.join(found)}")
            if found and found[0] in sample.faults:
                return Record({}, sample.faults[found[0]], sample.place[1])
            content = sample.contents.get(found[0]) if found else None
            is_text = content is not None and name != shard.options["image_column"]
            values[name] = content.decode("utf-8", errors="replace").removeprefix("\ufeff") if is_text else content
        else:
            values[name] = record.get(name)
            if fault and name == shard.options["alt_text_column"]:
                return Record({}, fault, sample.place[1])
    return Record(values, note=note)


def read_record(sample: Sample) -> tuple[dict[str, Any], str | None]:
    """The `.json` member as a dict, and what is wrong with one that is no JSON object."""
    content = sample.contents.get(RECORD_EXTENSION)
    if content is None:
        return {}, sample.faults.get(RECORD_EXTENSION)
    try:
        record = DECODE(content.decode("utf-8", errors="replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return {}, "json member is not JSON"
    return (record, None) if isinstance(record, dict) else ({}, "json member is no object")
