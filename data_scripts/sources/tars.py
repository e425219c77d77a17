"""Reads pairs from WebDataset tars in img2dataset's layout: `KEY.jpg`, `KEY.txt`, `KEY.json` beside one another."""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from data_scripts.engine.files import fingerprint_file
from data_scripts.schema import Batch, Shard


IMAGE_EXTENSIONS = ("avif", "bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
# Names of columns that a member stands for; every other column is a key of the `.json` member.
TEXT_EXTENSION, RECORD_EXTENSION = "txt", "json"
KEY_COLUMN = "__key__"
MAX_RECORD_BYTES = 16_000_000

Sample = dict[str, Any]


def plan_tars(paths: list[str], *, image_column: str, alt_text_column: str) -> list[Shard]:
    """One shard per tar."""
    options = {"image_column": image_column, "alt_text_column": alt_text_column}
    return [
        Shard(index, "tar", path, fingerprint=fingerprint_file(path), options=options)
        for index, path in enumerate(paths)
    ]


def read_tars(
    shard: Shard, *, names: list[str], batch_size: int, rows: list[int] | None
) -> Iterator[tuple[list[int], Batch]]:
    """Yields row positions and columns; images are passed over unless they are asked for.

    The alt-text is the `.txt` member, or the key of that name in `.json`; the image is the member with an image's
    extension; `__key__` is the name of the sample.

    Raises:
        ValueError: If the tar is cut short, or the first sample lacks a column.
    """
    wanted = None if rows is None else set(rows)
    positions: list[int] = []
    columns: Batch = {name: [] for name in names}
    for position, sample in enumerate(read_samples(shard, with_images=shard.options["image_column"] in names)):
        if wanted is not None and position not in wanted:
            continue
        values = [sample_value(sample, name, shard) for name in names]
        if position == 0:
            check_sample(sample, names, shard)
        positions.append(position)
        for name, value in zip(names, values, strict=True):
            columns[name].append(value)
        if len(positions) == batch_size:
            yield positions, columns
            positions, columns = [], {name: [] for name in names}
    if positions:
        yield positions, columns


def read_samples(shard: Shard, *, with_images: bool) -> Iterator[Sample]:
    """Groups neighbouring members of a tar by their name up to the first dot."""
    sample: Sample = {}
    try:
        with tarfile.open(shard.path, mode="r:*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample and sample[KEY_COLUMN] != key:
                    yield sample
                    sample = {}
                sample[KEY_COLUMN] = key
                add_member(sample, tar, member, extension.lower(), with_images=with_images)
                tar.members = []  # tarfile remembers every header otherwise, and memory grows with the input
            check_end(tar, shard.path)
    except (tarfile.ReadError, EOFError) as error:
        raise ValueError(f"{shard.path} is not a whole tar file ({error}); download it again") from None
    if sample:
        yield sample


def check_end(tar: tarfile.TarFile, path: str) -> None:
    """Refuses a tar without an end mark: tarfile takes a file that was cut for one that ends.

    Raises:
        tarfile.ReadError: If nothing follows the last member.
    """
    if path.endswith(".tar") and os.path.getsize(path) < tar.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end mark")


def add_member(
    sample: Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str, *, with_images: bool
) -> None:
    """Reads one member into its sample."""
    if extension in IMAGE_EXTENSIONS:
        sample["image"] = read_member(tar, member) if with_images else b""
    elif extension in (TEXT_EXTENSION, RECORD_EXTENSION) and member.size <= MAX_RECORD_BYTES:
        content = read_member(tar, member).decode("utf-8", errors="replace")
        if extension == TEXT_EXTENSION:
            sample["text"] = content
        else:
            sample["record"] = parse_record(content)


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a member."""
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def parse_record(content: str) -> dict[str, Any]:
    """The `.json` member as a dict; one that is no JSON object counts as empty."""
    try:
        record = json.loads(content)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def sample_value(sample: Sample, name: str, shard: Shard) -> Any:
    """The value of a column in a sample; None if it has none."""
    if name == shard.options["image_column"]:
        return sample.get("image")
    if name == KEY_COLUMN:
        return sample[KEY_COLUMN]
    if name == shard.options["alt_text_column"] and "text" in sample:
        return sample["text"]
    value = sample.get("record", {}).get(name)
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_sample(sample: Sample, names: list[str], shard: Shard) -> None:
    """Refuses a column that the first sample of a tar does not have.

    Raises:
        ValueError: With the columns that it has.
    """
    available = {KEY_COLUMN, *sample.get("record", {})}
    available |= {shard.options["image_column"]} if "image" in sample else set()
    available |= {shard.options["alt_text_column"]} if "text" in sample else set()
    for name in names:
        if name not in available:
            raise ValueError(
                f"{shard.path}: sample {sample[KEY_COLUMN]!r} has no {name!r}, only {', '.join(sorted(available))}. "
                "Set --image_column, --alt_text_column, --image_id_column or --keep_columns."
            )
