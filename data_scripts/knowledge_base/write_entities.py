"""Joins what is said about the kept entities, and writes the entity table a chunk of rows at a time."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from modeling_mofi.whole_files import write_whole


CHUNK_ROWS = 100_000
TEXTS = pa.large_list(pa.large_string())
ENTITY_TABLE = pa.schema(
    {
        "entity_id": pa.large_string(),
        "name": pa.large_string(),
        "description": pa.large_string(),
        "aliases": TEXTS,
        "num_sitelinks": pa.int32(),
        "types": TEXTS,
        "links": TEXTS,
        "has_image": pa.bool_(),
    }
)


def join_lists(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables of what an entity may have several of, in the order of the rows of `kept`.

    Links lead to kept entities only. Types and links are sorted, so that no source's order of statements matters.
    """
    connection.execute(
        """
        CREATE TABLE entity_aliases AS
        SELECT kept.rowid AS row, alias AS value FROM aliases JOIN kept USING (id) WHERE alias <> ''
        ORDER BY row, position;
        CREATE TABLE entity_types AS
        SELECT kept.rowid AS row, target AS value FROM types JOIN kept USING (id) GROUP BY kept.rowid, target
        ORDER BY kept.rowid, min(is_parent), length(target), target;
        CREATE TABLE entity_links AS
        SELECT DISTINCT kept.rowid AS row, targets.rowid AS target
        FROM links JOIN kept USING (id) JOIN kept AS targets ON links.target = targets.id
        ORDER BY row, target;
        """
    )


def write_entities(connection: duckdb.DuckDBPyConnection, path: Path) -> pa.Table:
    """Writes the entity table and maps it."""
    num_rows = connection.execute("SELECT count(*) FROM kept").fetchall()[0][0]
    with write_whole(path) as temporary, pa.ipc.new_file(str(temporary), ENTITY_TABLE) as writer:
        for batch in read_chunks(connection, num_rows):
            writer.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def read_chunks(connection: duckdb.DuckDBPyConnection, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Yields the entity table in chunks of rows."""
    ids = fetch(connection, "SELECT id FROM kept")["id"].combine_chunks()
    for first in range(0, num_rows, CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, num_rows)
        heads = fetch(connection, f"SELECT * FROM kept WHERE rowid >= {first} AND rowid < {last}")
        aliases, types, links = (
            fetch(connection, f"SELECT row, {value} FROM {table} WHERE row >= {first} AND row < {last}")
            for table, value in (("entity_aliases", "value"), ("entity_types", "value"), ("entity_links", "target"))
        )
        columns = {
            "entity_id": heads["id"],
            "name": heads["name"],
            "description": heads["description"],
            "aliases": as_lists(aliases, first, last),
            "num_sitelinks": heads["num_sitelinks"],
            "types": as_lists(types, first, last),
            "links": as_lists(links.set_column(1, "value", ids.take(links["target"])), first, last),
            "has_image": heads["has_image"],
        }
        table = pa.table({name: column.cast(ENTITY_TABLE.field(name).type) for name, column in columns.items()})
        yield table.combine_chunks().to_batches()[0]


def fetch(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Rows of a query in one chunk."""
    return connection.sql(query).to_arrow_table().combine_chunks()


def as_lists(table: pa.Table, first: int, last: int) -> pa.ChunkedArray:
    """The values of each row of a chunk, from rows in ascending order, as lists."""
    counts = np.bincount(table["row"].to_numpy() - first, minlength=last - first)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    values = pa.array([], pa.large_string()) if len(table) == 0 else table.column(1).chunk(0).cast(pa.large_string())
    return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, values)])
