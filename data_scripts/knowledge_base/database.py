"""DuckDB: a database in a file, and queries of Parquet files whose progress is shown."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa


SILENT_SECONDS = 5.0


def open_database(path: Path, *, memory_gigabytes: float, num_threads: int) -> duckdb.DuckDBPyConnection:
    """A fresh database in a file; what does not fit into the memory is spilled beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_database(path)
    settings = {"memory_limit": f"{int(memory_gigabytes * 1000)}MB", "threads": num_threads}
    return duckdb.connect(str(path), config=settings | {"temp_directory": f"{path}.spilled"})


def remove_database(path: Path) -> None:
    """Deletes a database and what it spilled."""
    for old in path.parent.glob(f"{path.name}*"):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def quote(paths: Iterable[Path]) -> str:
    """Paths as a list in SQL."""
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths) + "]"


def fetch_rows(
    connection: duckdb.DuckDBPyConnection, query: str, first: int, last: int, *, row: str = "row"
) -> pa.Table:
    """Rows of a range of a query in one chunk; the tables are in the order of the rows, so that little is read."""
    return connection.sql(f"{query} WHERE {row} >= {first} AND {row} < {last}").to_arrow_table().combine_chunks()
