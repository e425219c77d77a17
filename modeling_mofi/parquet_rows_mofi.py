"""Rows of Parquet files by index: read by row group, in place, without the copy that `datasets` would make."""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq


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
        self.files, self.columns = list(files), columns
        self.groups: list[tuple[int, int]] = []  # File and row group in it.
        self.group_sizes: list[int] = []
        for place, file in enumerate(self.files):
            metadata = pq.read_metadata(file)
            check_columns(file, metadata.schema.to_arrow_schema().names, columns)
            self.groups += [(place, group) for group in range(metadata.num_row_groups)]
            self.group_sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.ends = list(accumulate(self.group_sizes))
        if not len(self):
            raise ValueError(f"There is no row in {', '.join(self.files) or 'no file'}.")
        self.num_cached_rows = num_cached_rows + max(self.group_sizes)
        self._forget()

    @property
    def column_names(self) -> list[str]:
        """Keys of every row."""
        return list(self.columns.values())

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Row {index} is outside [0, {len(self)}).")
        group = bisect_right(self.ends, index)
        row = index - self.ends[group] + self.group_sizes[group]
        table = self._table(group)
        return {self.columns[name]: table.column(name)[row].as_py() for name in table.column_names}

    def _table(self, group: int) -> pa.Table:
        if self._process != os.getpid():
            self._forget()  # A forked worker must not share its parent's open files.
        if group not in self._tables:
            file, number = self.groups[group]
            if file not in self._open_files:
                self._open_files[file] = pq.ParquetFile(self.files[file], memory_map=True)
            table = self._open_files[file].read_row_group(number, columns=list(self.columns), use_threads=False)
            self._tables[group] = table.combine_chunks()
            while sum(map(len, self._tables.values())) > self.num_cached_rows:
                self._tables.popitem(last=False)
        self._tables.move_to_end(group)
        return self._tables[group]

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open_files: dict[int, pq.ParquetFile] = {}
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_open_files": {}, "_tables": OrderedDict()}


def check_columns(name: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises a ValueError that names the first wanted column that is missing, and those that are there."""
    for column in wanted:
        if column not in found:
            raise ValueError(f"{name} has no column {column!r}; its columns are {', '.join(found)}.")


def find_parquet_files(dataset: str, *, split: str) -> list[str]:
    """Paths of a split's Parquet files, downloaded first where the data set is on the Hub.

    Args:
        dataset: Folder, Parquet file, glob of Parquet files, or id of a data set on the Hub.
        split: Ignored for files and globs.

    Raises:
        ValueError: If there is no such data set or split, or if it is not in Parquet.
    """
    if dataset.endswith(".parquet"):
        files = sorted(glob(dataset))
        if not files:
            raise ValueError(f"dataset {dataset} does not exist: no file has that name or matches that pattern.")
        return files
    try:
        builder = datasets.load_dataset_builder(dataset)
    except Exception as error:
        place = "holds no data set" if Path(dataset).is_dir() else "is no folder here and no data set on the Hub"
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
    return files if Path(dataset).is_dir() else datasets.DownloadManager().download(files)
