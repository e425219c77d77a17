"""Decides what a source is and cuts it into shards: the unit that is read, computed, committed and resumed."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa

from data_scripts.arguments import SourceArguments
from data_scripts.schema import Shard
from data_scripts.sources.hub import is_saved_dataset, open_dataset, plan_hub, read_hub
from data_scripts.sources.images import is_url
from data_scripts.sources.lines import is_separated, plan_lines, read_records
from data_scripts.sources.parquet import open_parquet, plain_type, plan_parquet, read_group, to_python
from data_scripts.sources.records import check_columns
from data_scripts.sources.tars import plan_tars, read_tars


logger = logging.getLogger(__name__)

FORMATS = {
    "parquet": (".parquet",),
    "tar": (".tar", ".tar.gz"),
    "lines": (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz"),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
WILDCARD = re.compile(r"[*?\[]")
ROWS_TO_LOOK_AT = 1000


def plan_shards(source: SourceArguments) -> list[Shard]:
    """Cuts a source into shards, and looks for its columns in every file before any work is done.

    Raises:
        FileNotFoundError: If a path or pattern matches nothing.
        ValueError: If there is no row, a folder mixes formats, a file lacks a column, or images are URLs.
    """
    names = column_names(source)
    paths = find_files(source.pairs)
    kind = "hub" if paths is None else format_of(paths, source.pairs)
    if source.columns and not any(map(is_separated, paths or ())):
        logger.warning("columns is ignored: %s is neither CSV nor TSV", source.pairs)
    if paths is None:
        shards = plan_hub(
            source.pairs,
            config_name=source.hub_config,
            split=source.hub_split,
            revision=source.hub_revision,
            streaming=source.streaming and not is_saved_dataset(source.pairs),
            rows_per_shard=source.rows_per_shard,
            names=names,
        )
    elif kind == "parquet":
        shards = plan_parquet(paths, rows_per_shard=source.rows_per_shard, names=names)
    elif kind == "tar":
        shards = plan_tars(
            paths, image_column=source.image_column, alt_text_column=source.alt_text_column, names=names
        )
    else:
        shards = plan_lines(paths, rows_per_shard=source.rows_per_shard, columns=source.columns)
    if not shards:
        raise ValueError(f"{source.pairs} has no rows: nothing to build a dataset from")
    for path in sorted(set(paths or ()) - {shard.path for shard in shards}):
        logger.warning("%s has no rows", path)
    check_files(shards, names, image_column=source.image_column)
    return shards


def column_names(source: SourceArguments) -> list[str]:
    """Every column that is read."""
    names = (source.image_column, source.alt_text_column, source.image_id_column, *source.keep_columns)
    return [name for name in names if name is not None]


def find_files(source: str) -> list[str] | None:
    """Files of a source in a fixed order; None if it is a folder of `save_to_disk`, or looks like an id on the Hub.

    Raises:
        FileNotFoundError: If nothing, or of a pattern `{000..099}` one file is not there.
    """
    path = Path(source)
    if path.is_file():
        return [source]
    if path.is_dir():
        return None if is_saved_dataset(source) else files_of_folder(path)
    if "{" in source:
        paths = [path for pattern in expand_braces(source) for path in (find_pattern(pattern) or [pattern])]
        if missing := [path for path in paths if not os.path.isfile(path)]:
            raise FileNotFoundError(f"{source}: {len(missing)} of {len(paths)} files are missing, first {missing[0]}")
        return paths
    if WILDCARD.search(source):
        if not (found := find_pattern(source)):
            raise FileNotFoundError(f"no file matches {source}")
        return found
    if source.count("/") > 1 or source.startswith((".", "/")) or Path(source).suffix:
        raise FileNotFoundError(f"{source} does not exist; a file, a folder, a pattern or a Hub id is expected")
    return None


def files_of_folder(folder: Path) -> list[str]:
    """The files of a folder that hold pairs; of img2dataset's, the tars and not the metadata beside them.

    Raises:
        FileNotFoundError: If there is none.
    """
    files = [file for file in sorted(folder.rglob("*")) if is_data(file.relative_to(folder)) and file.is_file()]
    metadata = [str(file) for file in files if file.name in METADATA_NAMES]
    found = metadata or [str(file) for file in files if file.name.endswith(ENDINGS)]
    tars = [path for path in found if path.endswith(FORMATS["tar"])]
    stems = {path.removesuffix(".gz").removesuffix(".tar") for path in tars}
    if all(path.endswith(FORMATS["tar"]) or path.removesuffix(".parquet") in stems for path in found):
        found = tars or found
    if not found:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(ENDINGS)} file and no metadata.jsonl, metadata.csv or metadata.parquet "
            "that names its images"
        )
    return found


def is_data(path: Path) -> bool:
    """Whether no part of a path begins as hidden files and the leavings of a Mac do."""
    return not any(part.startswith((".", "__")) for part in path.parts)


def find_pattern(pattern: str) -> list[str] | None:
    """Files that match a pattern with `*`, `?` or `[...]`, in order; None if it has none."""
    if not WILDCARD.search(pattern):
        return None
    path = Path(pattern)
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    found = anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path))
    return sorted(str(file) for file in found if not file.name.startswith(".") and file.is_file())


def expand_braces(pattern: str) -> list[str]:
    """`a{08..10}` as a08, a09, a10, and `{a,b}` as a, b; as shells do.

    Raises:
        ValueError: If a brace is not closed, or holds neither.
    """
    before, _, rest = pattern.partition("{")
    if not rest:
        return [pattern]
    inside, brace, after = rest.partition("}")
    steps = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not brace or (steps is None and "," not in inside):
        raise ValueError(f"{pattern}: expected {{000..099}} or {{a,b}}, got {{{inside}{brace}")
    if steps:
        first, last = int(steps[1]), int(steps[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        choices = [str(number).zfill(len(steps[1])) for number in numbers]
    else:
        choices = inside.split(",")
    endings = expand_braces(after)
    return [f"{before}{choice}{ending}" for choice in choices for ending in endings]


def format_of(paths: Sequence[str], source: str) -> str:
    """The one format of some files.

    Raises:
        ValueError: If it is unknown, or there are several.
    """
    kinds = {kind for path in paths for kind, endings in FORMATS.items() if path.endswith(endings)}
    unknown = [path for path in paths if not any(path.endswith(endings) for endings in FORMATS.values())]
    if unknown or len(kinds) != 1:
        known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
        got = unknown[0] if unknown else f"{' and '.join(sorted(kinds))} files together"
        raise ValueError(
            f"{source}: expected files of one kind ({known}), got {got}; give a pattern such as 'a/*.tar'"
        )
    return kinds.pop()


def check_files(shards: Sequence[Shard], names: Sequence[str], *, image_column: str) -> None:
    """Looks at the first rows of every file, before any work is done.

    Raises:
        ValueError: If a column is in none of them, none can be read, or most images are URLs.
    """
    images: list[object] = []
    previous = None
    for shard in shards:
        if shard.format == "lines" and shard.path != previous:
            images += check_lines(shard, names, image_column)
        previous = shard.path
    if shards[0].format != "lines":
        images = first_paths(shards[0], image_column)
    urls = [image for image in images if is_url(image)]
    if 2 * len(urls) > len([image for image in images if image]):
        raise ValueError(
            f"{shards[0].path}: column {image_column!r} holds URLs ({urls[0]!r}), and URLs are not fetched. Download "
            "the images first, for example with img2dataset, and give its tar files as --pairs."
        )


def check_lines(shard: Shard, names: Sequence[str], image_column: str) -> list[object]:
    """The images of the first rows of a file, in some of which each column must be."""
    records = [record for _, record in islice(read_records(replace(shard, stop=None)), ROWS_TO_LOOK_AT)]
    whole = [record for record in records if record.reason is None]
    if not whole:
        raise ValueError(f"{shard.path}: none of the first lines can be read: {records[0].reason}, {records[0].error}")
    check_columns(
        names, shard.options["header"] or list({key: None for one in whole for key in one.values}), path=shard.path
    )
    return [record.values.get(image_column) for record in whole]


def first_paths(shard: Shard, image_column: str) -> list[object]:
    """The paths of the first images, where images are named and not held."""
    if shard.format == "tar":
        if image_column in shard.options["members"]:
            return []
        rows = read_tars(shard, names=[image_column], batch_size=ROWS_TO_LOOK_AT, rows=None)
        return next((table[image_column] for _, table in rows), [])
    if shard.format == "hub":
        features = open_dataset(shard.path, shard.options).features
        if features is None or features.get(image_column) != datasets.Value("string"):
            return []
        _, table = next(read_hub(shard, names=[image_column], batch_size=ROWS_TO_LOOK_AT, rows=None))
        return table[image_column]
    file = open_parquet(shard.path)
    kind = plain_type(file.schema_arrow.field(image_column).type)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return []
    group = next(group for group in range(file.num_row_groups) if file.metadata.row_group(group).num_rows)
    parts = read_group(file, group, names=[image_column], batch_size=ROWS_TO_LOOK_AT, path=shard.path)
    return to_python(next(parts).column(image_column))
