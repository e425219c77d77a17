"""Joins what is said about the kept entities, and writes the entity table a chunk of rows at a time."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_scripts.knowledge_base.array_pieces import ranges, write_pieces
from data_scripts.knowledge_base.database import SILENT_SECONDS, fetch_rows, run_query
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
JOINS = {
    "entity_aliases": """
        SELECT kept.rowid AS row, alias AS value FROM aliases JOIN kept USING (id) WHERE alias <> ''
        ORDER BY row, position""",
    "entity_types": """
        SELECT kept.rowid AS row, target AS value FROM types JOIN kept USING (id) GROUP BY kept.rowid, target
        ORDER BY kept.rowid, min(is_parent), length(target), target""",
    "entity_links": """
        SELECT DISTINCT kept.rowid AS row, targets.rowid AS target, targets.id AS value
        FROM links JOIN kept USING (id) JOIN kept AS targets ON links.target = targets.id
        ORDER BY row, target""",
    "neighbors": """
        SELECT row, target FROM entity_links
        UNION SELECT row, kept.rowid FROM entity_types JOIN kept ON value = id
        ORDER BY row, target""",
}


def join_lists(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables of what an entity may have several of, in the order of the rows of `kept`.

    Links lead to kept entities only. Types and links are sorted, so that no source's order of statements matters.
    """
    for table, query in JOINS.items():
        run_query(connection, f"CREATE TABLE {table} AS {query}", table.removeprefix("entity_"))


def write_entities(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Writes the entity table and the arrays that are columns of it; returns the number of entities."""
    num_rows, id_bytes = connection.execute("SELECT count(*), coalesce(max(strlen(id)), 1) FROM kept").fetchall()[0]
    path = folder / "entities.arrow"
    with write_whole(path) as temporary, pa.ipc.new_file(str(temporary), ENTITY_TABLE) as writer:
        for batch in tqdm(read_chunks(connection, num_rows), desc="entities", unit="chunk", delay=SILENT_SECONDS):
            writer.write_batch(batch)
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    ids = (np.array([value.encode() for value in batch["entity_id"].to_pylist()], f"S{id_bytes}") for batch in batches)
    write_pieces(folder / "entity_ids.npy", ids, f"S{id_bytes}")
    pictured = (batch["has_image"].to_numpy(zero_copy_only=False) for batch in batches)
    write_pieces(folder / "has_image.npy", pictured, np.bool_)
    order = connection.sql("SELECT rowid FROM kept ORDER BY id").to_arrow_reader(CHUNK_ROWS)
    write_pieces(folder / "id_order.npy", (batch.column(0).to_numpy() for batch in order), np.int32)
    sitelinks = [batch["num_sitelinks"].to_numpy() for batch in batches]
    write_pieces(folder / "popularity.npy", popularity(sitelinks), np.float32)
    return num_rows


def popularity(sitelinks: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Minus the log of the share of entities with more sitelinks, ties halved; 0 where all have as many.

    A rank, not a count: sitelinks, page views and incoming links have scales of their own.
    """
    values, counts = np.unique(np.concatenate(sitelinks), return_counts=True)
    below = 2 * np.cumsum(counts) - counts
    levels = -np.log1p(-below / (2 * counts.sum())) if len(values) > 1 else np.zeros(len(values))
    return (levels[np.searchsorted(values, numbers)] for numbers in sitelinks)


def read_chunks(connection: duckdb.DuckDBPyConnection, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Yields the entity table in chunks of rows."""
    for first, last in ranges(num_rows, CHUNK_ROWS):
        heads = fetch_rows(connection, "SELECT id AS entity_id, * EXCLUDE id FROM kept", first, last, row="rowid")
        lists = {
            name: as_lists(fetch_rows(connection, f"SELECT row, value FROM entity_{name}", first, last), first, last)
            for name in ("aliases", "types", "links")
        }
        columns = {name: heads[name] for name in heads.column_names} | lists
        columns = [columns[field.name].cast(field.type) for field in ENTITY_TABLE]
        table = pa.table(columns, schema=ENTITY_TABLE)
        yield table.combine_chunks().to_batches()[0]


def as_lists(table: pa.Table, first: int, last: int) -> pa.ChunkedArray:
    """The values of each row of a chunk, from rows in ascending order, as lists."""
    counts = np.bincount(table["row"].to_numpy() - first, minlength=last - first)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    values = pa.array([], pa.large_string()) if len(table) == 0 else table.column(1).chunk(0).cast(pa.large_string())
    return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, values)])
