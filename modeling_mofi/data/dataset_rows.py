"""Rows of datasets in memory or streamed, as `datasets` has them, for training beside those of Parquet files."""

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node

from ..distributed_mofi import process_place
from .collator import MAX_UNREADABLE_IN_A_ROW
from .images import DEFAULT_BOUNDS, ImageBounds, UnreadableImage, read_image
from .parquet_rows import check_columns


logger = logging.getLogger(__name__)


class DatasetRows(Sequence):
    """Sequence of rows, each a dict, of a `datasets.Dataset`; images stay undecoded.

    Args:
        columns: From the dataset's column names to the rows' keys; the others are not read.

    Raises:
        ValueError: If there is no row, or a column is missing.
    """

    files = ("the dataset",)
    folders = None  # Image files may lie anywhere, as `datasets` itself would open them.

    def __init__(self, dataset: datasets.Dataset, columns: dict[str, str]):
        self.whole = undecoded(dataset, columns)
        self.schemas = (dataset.features.arrow_schema,)
        if not len(dataset):
            raise ValueError("There is no row in the dataset.")
        self._choose(columns)

    def with_columns(self, columns: dict[str, str]) -> "DatasetRows":
        """The same rows with other columns; arguments and errors as for the class."""
        rows = copy.copy(self)
        rows._choose(columns)
        return rows

    def _choose(self, columns: dict[str, str]) -> None:
        check_columns("the dataset", self.whole.column_names, columns)
        self.columns, self.dataset = columns, self.whole.select_columns(list(columns))

    @property
    def column_names(self) -> list[str]:
        """Keys of every row."""
        return list(self.columns.values())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.columns[name]: value for name, value in self.dataset[index].items()}


class EndlessRows(torch.utils.data.IterableDataset):
    """Decoded rows of a `datasets.IterableDataset`, over and over, each process and worker with its own share.

    A row's `position`, of which everything random about it is a function, counts the rows of all shares in turn: a run
    that is resumed on as many processes and workers sees the same batches.

    Args:
        columns: From the dataset's column names to the rows' keys; the others are dropped.
        min_side, bounds: As for `PositionDataset`.

    Raises:
        ValueError: If many images in a row are unreadable.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        columns: dict[str, str],
        *,
        min_side: int,
        bounds: ImageBounds = DEFAULT_BOUNDS,
    ):
        self.dataset, self.columns = undecoded(dataset, columns), columns
        self.min_side, self.bounds = min_side, bounds
        self.place = process_place()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, num_processes = self.place
        worker = torch.utils.data.get_worker_info()
        index, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        share = split_dataset_by_node(self.dataset, rank=rank, world_size=num_processes)
        first, step = rank * num_workers + index, num_processes * num_workers
        num_rows = num_unreadable = in_a_row = epoch = 0
        while True:
            share.set_epoch(epoch)
            before = num_rows + in_a_row
            for found in share:
                row = {self.columns[name]: value for name, value in found.items() if name in self.columns}
                try:
                    row["image"] = read_image(row["image"], bounds=self.bounds, shrink_to=self.min_side)
                except UnreadableImage as error:
                    logger.warning("image %s is left out: %s", row.get("image_id", num_rows), error)
                    num_unreadable, in_a_row = num_unreadable + 1, in_a_row + 1
                    if in_a_row == MAX_UNREADABLE_IN_A_ROW:
                        raise ValueError(
                            f"{in_a_row} images in a row are unreadable; check the image column."
                        ) from error
                    continue
                yield {**row, "position": first + num_rows * step, "num_unreadable": num_unreadable}
                num_rows, num_unreadable, in_a_row = num_rows + 1, 0, 0
            if num_rows + in_a_row == before:
                raise ValueError(
                    "A process or worker has no row of the dataset: it has fewer shards. Lower dataloader_num_workers."
                )
            epoch += 1


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """The dataset with encoded images, which our own reader decodes: one bad image would end an iterator for good."""
    if dataset.column_names is not None:
        check_columns("the dataset", dataset.column_names, columns)
    (image_column,) = (name for name in columns if columns[name] == "image")
    return dataset.cast_column(image_column, datasets.Image(decode=False))
