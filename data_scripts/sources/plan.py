"""Decides what a source is and cuts it into shards: the unit that is read, computed, committed and resumed."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from data_scripts.arguments import SourceArguments
from data_scripts.schema import Shard
from data_scripts.sources.hub import open_dataset, plan_hub
from data_scripts.sources.lines import plan_lines, read_lines
from data_scripts.sources.parquet import check_columns, open_parquet, plan_parquet
from data_scripts.sources.tars import plan_tars, read_tars


logger = logging.getLogger(__name__)

FORMATS = {
    "parquet": (".parquet",),
    "tar": (".tar", ".tar.gz"),
    "lines": (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz"),
}
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def plan_shards(source: SourceArguments) -> list[Shard]:
    """Cuts a source into shards, and looks for its columns in every file before any work is done.

    Raises:
        FileNotFoundError: If a path or pattern matches nothing.
        ValueError: If there is no row, a folder mixes formats, or a file lacks a column.
    """
    paths = find_files(source.pairs)
    if paths is None:
        shards = plan_hub(
            source.pairs,
            config_name=source.hub_config,
            split=source.hub_split,
            revision=source.hub_revision,
            streaming=source.streaming,
            rows_per_shard=source.rows_per_shard,
        )
    else:
        kind = format_of(paths, source.pairs)
        if kind == "parquet":
            shards = plan_parquet(paths, rows_per_shard=source.rows_per_shard, names=column_names(source))
        elif kind == "tar":
            shards = plan_tars(paths, image_column=source.image_column, alt_text_column=source.alt_text_column)
        else:
            shards = plan_lines(paths, rows_per_shard=source.rows_per_shard)
    if not shards:
        raise ValueError(f"{source.pairs} has no rows: nothing to build a data set from")
    check_files(shards, column_names(source))
    return shards


def column_names(source: SourceArguments) -> list[str]:
    """Every column that is read."""
    names = (source.image_column, source.alt_text_column, source.image_id_column, *source.keep_columns)
    return [name for name in names if name is not None]


def find_files(source: str) -> list[str] | None:
    """Files of a source in a fixed order; None if the source is no path but looks like an id on the Hub."""
    path = Path(source)
    if path.is_file():
        return [source]
    if path.is_dir():
        metadata = sorted(str(found) for name in METADATA_NAMES for found in path.rglob(name))
        endings = tuple(ending for group in FORMATS.values() for ending in group)
        found = metadata or sorted(str(file) for file in path.rglob("*") if file.name.endswith(endings))
        if not found:
            raise FileNotFoundError(
                f"{source} has no {', '.join(endings)} file and no metadata.jsonl, metadata.csv or metadata.parquet "
                "that names its images"
            )
        return found
    if "*" in source:
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(str(file) for file in anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        if not found:
            raise FileNotFoundError(f"no file matches {source}")
        return found
    if source.count("/") > 1 or source.startswith((".", "/")) or Path(source).suffix:
        raise FileNotFoundError(f"{source} does not exist; a file, a folder, a pattern or a Hub id is expected")
    return None


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


def check_files(shards: Sequence[Shard], names: Sequence[str]) -> None:
    """Looks for columns in the first row of every file, before any work is done.

    Raises:
        ValueError: With the file, the column it lacks and those it has.
    """
    previous = None
    for shard in shards:
        if shard.path != previous and shard.format in ("lines", "tar"):
            reader = read_lines if shard.format == "lines" else read_tars
            next(reader(shard, names=list(names), batch_size=1, rows=None), None)
        previous = shard.path
    keep_column_types(shards[0], names)


def keep_column_types(shard: Shard, names: Sequence[str]) -> dict[str, pa.DataType]:
    """Arrow types of the columns that are passed through; text where the format has no types."""
    if shard.format == "parquet":
        schema = open_parquet(shard.path).schema_arrow
        check_columns(list(names), schema.names, path=shard.path)
        return {name: plain_type(schema.field(name).type) for name in names}
    if shard.format == "hub":
        features = open_dataset(shard.path, shard.options).features
        if features is not None:
            check_columns(list(names), list(features), path=shard.path)
            return {name: plain_type(features.arrow_schema.field(name).type) for name in names}
    return dict.fromkeys(names, pa.string())


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: a dictionary of strings is strings."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
