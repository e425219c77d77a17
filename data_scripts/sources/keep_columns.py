"""Finds types for the columns that are passed through, from every file of a source, before any work is done."""

from collections.abc import Sequence

import datasets
import pyarrow as pa

from data_scripts.schema import Shard
from data_scripts.sources.hub import open_dataset
from data_scripts.sources.parquet import open_parquet, plain_type
from data_scripts.sources.records import check_columns


def keep_column_types(shards: Sequence[Shard], names: Sequence[str]) -> dict[str, pa.DataType]:
    """Arrow types of the columns that are passed through; text where the format has no types.

    Columns that are null in one file take the type of another, and integers beside floats become floats.

    Raises:
        ValueError: If two files disagree otherwise, or a column is of a type that a dataset cannot have.
    """
    types = dict.fromkeys(names, pa.null())
    origins: dict[str, str] = {}
    previous = None
    for shard in shards if names else ():
        if shard.path == previous:
            continue
        previous = shard.path
        schema = file_schema(shard)
        if schema is None:
            return dict.fromkeys(names, pa.string())
        check_columns(names, schema.names, path=shard.path)
        for name in names:
            kind = plain_type(schema.field(name).type)
            check_type(name, kind, path=shard.path)
            types[name] = join_types(types[name], kind, name=name, path=shard.path, origin=origins.get(name, ""))
            if kind != pa.null():
                origins.setdefault(name, shard.path)
    return {name: pa.string() if kind == pa.null() else kind for name, kind in types.items()}


def file_schema(shard: Shard) -> pa.Schema | None:
    """Types of the columns of a file; None where the format has none."""
    if shard.format == "parquet":
        return open_parquet(shard.path).schema_arrow
    features = open_dataset(shard.path, shard.options).features if shard.format == "hub" else None
    return None if features is None else features.arrow_schema


def check_type(name: str, kind: pa.DataType, *, path: str) -> None:
    """Refuses a type that `datasets` does not know, such as a map.

    Raises:
        ValueError: With file, column and type.
    """
    try:
        datasets.Features.from_arrow_schema(pa.schema({name: kind}))
    except ValueError:
        raise ValueError(
            f"{path}: column {name!r} is of type {kind}, which a dataset cannot have. Take it out of --keep_columns, "
            "or store it as a list or as JSON text."
        ) from None


def join_types(first: pa.DataType, second: pa.DataType, *, name: str, path: str, origin: str) -> pa.DataType:
    """The type that holds the values of both.

    Raises:
        ValueError: With column, files and types, if there is none.
    """
    if first == second:
        return first
    try:
        if pa.null() not in (first, second) and family(first) != family(second):
            raise pa.ArrowTypeError("text and bytes, or numbers of another kind")
        schemas = [pa.schema({name: first}), pa.schema({name: second})]
        joined = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        if pa.uint64() in (first, second) and pa.types.is_signed_integer(joined):
            raise pa.ArrowTypeError("no integer holds the values of both")
        return joined
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise ValueError(
            f"{path}: column {name!r} is of type {second}, and of type {first} in {origin}. Make them equal, or take "
            "the column out of --keep_columns."
        ) from None


def family(kind: pa.DataType) -> str:
    """Types between which values may change: Arrow would also join text with bytes, and decimals with floats."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_nested(kind):
        return "nested"
    return str(kind).removeprefix("large_")
