"""Rows of Parquet files elsewhere, or with many readers here: row groups are read as needed, once per machine."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ..whole_files import write_whole
from .parquet_rows import ParquetRows


logger = logging.getLogger(__name__)

NUM_CONNECTIONS = 8  # Of each worker.
NUM_LOCKS = 256
RETRY_SECONDS = (1, 4, 16, 64)
KEPT_SHARE = 3  # Rows on disk for each row that a reader keeps: one window, the one before and the one after.
Read = TypeVar("Read")


class StreamedRows(ParquetRows):
    """`ParquetRows` of files that are elsewhere, or that many processes and workers read: the same rows by the same
    indices.

    Of a row group only the wanted columns are fetched. It stays on disk, decompressed, until newer ones need its
    place; all workers and processes of the machine map the same file into memory.

    Args:
        files: Paths, or URLs that fsspec knows, such as `hf://datasets/me/i2e@main/data/train-0.parquet`, of one kind.
        folder: Where row groups are kept; in the cache of `datasets` by default.
        num_kept_rows: Rows that are kept there at least, if more than three times `num_cached_rows`: as many as all
            processes and workers of the machine may be at work on, or they would fetch row groups again.
        kwargs: As for `ParquetRows`.

    Raises:
        ConnectionError: If a file cannot be read, here or when rows are asked for.
    """

    def __init__(
        self,
        files: Sequence[str],
        columns: dict[str, str],
        *,
        folder: str | Path | None = None,
        num_kept_rows: int = 0,
        **kwargs: Any,
    ):
        self.root = Path(datasets.config.HF_DATASETS_CACHE) / "mofi_streamed" if folder is None else Path(folder)
        super().__init__(files, columns, **kwargs)
        self.num_kept_rows = max(num_kept_rows, KEPT_SHARE * self.num_cached_rows)

    def fetch(self, indices: Iterable[int]) -> None:
        """Brings the row groups of some rows onto this machine, several at a time."""
        groups = {self.group_of(index) for index in indices} - self._tables.keys()
        missing = [group for group in sorted(groups) if not self._path(group).exists()]
        with ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
            list(threads.map(self._fetch, missing))

    # Reading

    def _read_metadata(self) -> list[pq.FileMetaData]:
        def read(file: str) -> tuple[pq.FileMetaData, int | None]:
            with self._open(file) as source:
                return pq.read_metadata(source), getattr(source, "size", None)

        with ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
            found = list(threads.map(lambda file: with_retries(lambda: read(file), what=file), self.files))
        self._metadata, self._sizes = ([pair[place] for pair in found] for place in (0, 1))
        return self._metadata

    def _read_group(self, group: int) -> pa.Table:
        while True:
            try:
                with pa.memory_map(str(self._path(group))) as source:
                    return pa.ipc.open_file(source).read_all()
            except FileNotFoundError:  # Not fetched yet, or another process needed its place.
                self._fetch(group)

    def _fetch(self, group: int) -> None:
        path = self._path(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f"{group % NUM_LOCKS}.lock"):
            if path.exists():
                return
            place, number = self.groups[group]
            table = with_retries(lambda: self._download(group), what=f"row group {number} of {self.files[place]}")
            write_table(table, path)
            self._make_room(path.parent)

    def _download(self, group: int) -> pa.Table:
        place, number = self.groups[group]
        with self._open(self.files[place], size=self._sizes[place]) as source:
            file = pq.ParquetFile(source, metadata=self._metadata[place], pre_buffer=True)
            return file.read_row_group(number, columns=list(self.columns), use_threads=False)

    def _open(self, file: str, **options: Any) -> Any:
        self._check_process()
        if self._file_system is None:
            self._file_system = fsspec.core.url_to_fs(file)[0]  # Shared by all threads, to query the Hub once.
        return self._file_system.open(fsspec.core.strip_protocol(file), "rb", cache_type="none", **options)

    # What is kept

    def _path(self, group: int) -> Path:
        return self.root / self._fingerprint() / f"{group}.arrow"

    def _fingerprint(self) -> str:
        if self._found_fingerprint is None:
            parts = zip(self.files, self._sizes, self._metadata, strict=True)
            files = [
                (file, size, modified_at(Path(file)), metadata.num_rows, metadata.serialized_size)
                for file, size, metadata in parts
            ]
            self._found_fingerprint = hashlib.sha256(repr((files, list(self.columns))).encode()).hexdigest()[:16]
        return self._found_fingerprint

    def _make_room(self, folder: Path) -> None:
        """Removes the row groups that were fetched first; readers that have one mapped keep it."""
        kept = sorted((modified_at(path), int(path.stem), path) for path in folder.glob("*.arrow"))
        num_rows = sum(self.group_sizes[group] for _, group, _ in kept)
        for _, group, path in kept:
            if num_rows <= self.num_kept_rows:
                break
            path.unlink(missing_ok=True)
            num_rows -= self.group_sizes[group]

    def _forget(self) -> None:
        super()._forget()
        self._file_system: fsspec.AbstractFileSystem | None = None  # Connections do not survive a fork.
        self._found_fingerprint: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_file_system": None}


def open_rows(
    files: Sequence[str], columns: dict[str, str], *, num_cached_rows: int, num_readers: int = 1, **kwargs: Any
) -> ParquetRows:
    """Opens files that are here, or URLs; arguments as for `StreamedRows`, of which one reader needs few.

    Args:
        num_readers: Processes and workers of this machine that read the rows. Batches go to them in turn, so that
            each needs some rows of every row group: by itself, each would decompress the whole dataset.
    """
    if "://" not in files[0] and num_readers == 1:
        return ParquetRows(files, columns, num_cached_rows=num_cached_rows)
    return StreamedRows(files, columns, num_cached_rows=num_cached_rows, **kwargs)


def write_table(table: pa.Table, path: Path) -> None:
    """Writes an Arrow file that is whole or not there, also after a crash of the machine."""
    with write_whole(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table.combine_chunks())  # One piece, which readers map without a copy.


def modified_at(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that is there no more."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def with_retries(read: Callable[[], Read], *, what: str) -> Read:
    """Calls `read`, again after a while where the network fails.

    Raises:
        ConnectionError: At once if the server rejects the request, else after the last retry.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - each kind of file system raises its own errors.
            if seconds is None or is_refusal(error):
                raise ConnectionError(
                    f"{what} cannot be read ({type(error).__name__}: {error}). Check address, network and token, then "
                    "start again: training resumes where it was. Without --streaming, files are downloaded first."
                ) from error
            logger.warning("%s: %s: %s; trying again in %d s", what, type(error).__name__, error, seconds)
            time.sleep(seconds)
    raise AssertionError("The last try returns or raises.")


def is_refusal(error: Exception) -> bool:
    """Whether trying again is of no use."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    return isinstance(error, (FileNotFoundError, PermissionError, ValueError, pa.ArrowInvalid))
