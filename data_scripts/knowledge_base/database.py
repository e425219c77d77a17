"""DuckDB: a database in a file, and queries of Parquet files whose progress is shown."""

import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from tqdm import tqdm


SILENT_SECONDS, POLL_SECONDS = 5.0, 0.2
# The rest of the memory is for this process, its libraries and workers that wait.
DATABASE_SHARE = 0.6


def open_database(path: Path, *, memory_gigabytes: float, num_threads: int) -> duckdb.DuckDBPyConnection:
    """A fresh database in a file; what does not fit into the memory is spilled beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_database(path)
    settings = {"memory_limit": f"{int(memory_gigabytes * DATABASE_SHARE * 1000)}MB", "threads": num_threads}
    return duckdb.connect(str(path), config=settings | {"temp_directory": f"{path}.spilled"})


def run_query(
    connection: duckdb.DuckDBPyConnection, query: str, name: str, parameters: dict[str, Any] | None = None
) -> None:
    """Runs a query, with a bar of how far it is if it takes long; a signal to stop ends it."""
    with (
        ThreadPoolExecutor(1) as pool,
        tqdm(total=100, desc=f"join {name}", unit="%", delay=SILENT_SECONDS) as bar,
    ):
        running = pool.submit(connection.execute, query, parameters)
        try:
            while not wait([running], POLL_SECONDS).done:
                bar.update(max(0, round(connection.query_progress()) - bar.n))
        except BaseException:
            connection.interrupt()
            raise
        running.result()


@contextmanager
def limits_named(path: Path) -> Iterator[None]:
    """Says what to do where the disk or the memory is too small for a database.

    Raises:
        OSError: With the place and DuckDB's reason.
    """
    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"cannot join in {path.parent}: {reason}. Free some space there, or give more --memory_gigabytes or fewer "
            "--num_processes, and run again; what was read is not read again."
        ) from error


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
