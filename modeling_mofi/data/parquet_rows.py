"""Rows of Parquet files by index: read by row group, in place, without the copy that `datasets` would make."""

import copy
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from itertools import accumulate
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq


MAX_OPEN_FILES = 64


class ParquetRows(Sequence):
    """Sequence of rows, each a dict, out of Parquet files.

    Args:
        files: In the order of their rows.
        columns: From the files' column names to the rows' keys; the others are not read.
        num_cached_rows: Rows whose row groups are kept in memory, those used last; and one group more.

    Raises:
        ValueError: If there is no row, or a file lacks a column.
    """

    def __init__(self, files: Sequence[str], columns: dict[str, str], *, num_cached_rows: int = 4096):
        self.files = list(files)
        self._forget()
        self.schemas: list[pa.Schema] = []
        self.groups: list[tuple[int, int]] = []  # File and row group in it.
        self.group_sizes: list[int] = []
        for place, metadata in enumerate(self._read_metadata()):
            self.schemas.append(metadata.schema.to_arrow_schema())
            self.groups += [(place, group) for group in range(metadata.num_row_groups)]
            self.group_sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.ends = list(accumulate(self.group_sizes))
        self._choose(columns)
        if not len(self):
            raise ValueError(f"There is no row in {', '.join(self.files) or 'no file'}.")
        self.num_cached_rows = num_cached_rows + max(self.group_sizes)

    def with_columns(self, columns: dict[str, str]) -> "ParquetRows":
        """The same rows with other columns; arguments and errors as for the class."""
        rows = copy.copy(self)
        rows._forget()
        rows._choose(columns)
        return rows

    def _choose(self, columns: dict[str, str]) -> None:
        for file, schema in zip(self.files, self.schemas, strict=True):
            check_columns(file, schema.names, columns)
        self.columns = columns

    def _read_metadata(self) -> list[pq.FileMetaData]:
        return [pq.read_metadata(file) for file in self.files]

    @property
    def column_names(self) -> list[str]:
        """Keys of every row."""
        return list(self.columns.values())

    @property
    def folders(self) -> tuple[str, ...]:
        """Where image files that rows name may lie: beside the Parquet files; nowhere for those at a URL."""
        return tuple(sorted({os.path.dirname(os.path.abspath(file)) for file in self.files if "://" not in file}))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Row {index} is outside [0, {len(self)}).")
        group = self.group_of(index)
        row = index - self.ends[group] + self.group_sizes[group]
        table = self._table(group)
        return {self.columns[name]: table.column(name)[row].as_py() for name in table.column_names}

    def group_of(self, index: int) -> int:
        """Which of all files' row groups holds a row."""
        return bisect_right(self.ends, index)

    def _table(self, group: int) -> pa.Table:
        self._check_process()
        if group not in self._tables:
            self._tables[group] = self._read_group(group).combine_chunks()
            while sum(map(len, self._tables.values())) > self.num_cached_rows:
                self._tables.popitem(last=False)
        self._tables.move_to_end(group)
        return self._tables[group]

    def _read_group(self, group: int) -> pa.Table:
        file, number = self.groups[group]
        if file not in self._open_files:
            self._open_files[file] = pq.ParquetFile(self.files[file], memory_map=True)
            while len(self._open_files) > MAX_OPEN_FILES:
                self._open_files.popitem(last=False)
        self._open_files.move_to_end(file)
        return self._open_files[file].read_row_group(number, columns=list(self.columns), use_threads=False)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            self._forget()  # A forked worker must not share its parent's open files.

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open_files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_open_files": OrderedDict(), "_tables": OrderedDict()}


def check_columns(name: str, found: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises a ValueError that names the first wanted column that is missing, and those that are there."""
    for column in wanted:
        if column not in found:
            raise ValueError(f"{name} has no column {column!r}; its columns are {', '.join(found)}.")


def find_parquet_files(dataset: str, *, split: str, streaming: bool = False) -> list[str]:
    """Paths of a split's Parquet files, or URLs of remote ones that are to be streamed.

    Args:
        dataset: Folder, Parquet file, glob or URL of Parquet files, or id of a dataset on the Hub.
        split: Ignored for files and globs.
        streaming: Leaves files where they are, which otherwise are downloaded first.

    Raises:
        ValueError: If there is no such dataset or split, or if it is not in Parquet.
    """
    if dataset.endswith(".parquet"):
        files = sorted(find_urls(dataset) if "://" in dataset else glob(dataset))
        if not files:
            raise ValueError(f"dataset {dataset} does not exist: no file has that name or matches that pattern.")
        return downloaded(files, streaming=streaming)
    import datasets  # Not at the top: entity tables are read by people who train nothing and may not have it.

    try:
        builder = datasets.load_dataset_builder(dataset)
    except Exception as error:
        place = "holds no dataset" if Path(dataset).is_dir() else "is no folder here and no dataset on the Hub"
        raise ValueError(f"dataset {dataset} {place} ({type(error).__name__}: {error}).") from error
    data_files = builder.config.data_files or {}
    if split not in data_files:
        raise ValueError(
            f"dataset {dataset} has no split {split!r}; its splits are {', '.join(map(str, data_files))}."
        )
    files = sorted(str(file) for file in data_files[split])
    if not all(file.endswith(".parquet") for file in files):
        raise ValueError(
            f"dataset {dataset} is not in Parquet ({files[0]}). Convert it first: "
            "datasets.load_dataset(...).to_parquet(...)."
        )
    return downloaded(files, streaming=streaming)


def find_urls(pattern: str) -> list[str]:
    """URLs that match one with wildcards; one without wildcards is returned unchanged."""
    if not has_magic(pattern):
        return [pattern]
    file_system, path = fsspec.core.url_to_fs(pattern)
    return [file_system.unstrip_protocol(found) for found in file_system.glob(path)]


def downloaded(files: list[str], *, streaming: bool) -> list[str]:
    """Paths of copies where files are URLs, unless they are to be streamed."""
    if streaming or "://" not in files[0]:
        return files
    import datasets

    return [str(file) for file in datasets.DownloadManager().download(files)]
