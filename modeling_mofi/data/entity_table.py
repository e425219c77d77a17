"""entities.parquet in memory: what an entity_label stands for."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from .parquet_rows import ParquetRows, check_columns


COLUMNS = ("entity_id", "name", "description")
BUILD_ID = b"mofi.build_id"  # In the schema's metadata of entities.parquet and of every shard of its dataset.
NUM_CHECKED_ROWS = 10_000


def ids_sha256(entity_ids: Iterable[str]) -> str:
    """Hash of entity ids in order: what a head's rows, or an index's vectors, stand for."""
    return hashlib.sha256("\n".join(entity_ids).encode()).hexdigest()


def build_ids(rows: Any) -> list[bytes | None]:
    """The build that the metadata of each file names."""
    return [(schema.metadata or {}).get(BUILD_ID) for schema in rows.schemas]


class EntityTable:
    """`entity_id`, `name` and `description` by entity_label, in Arrow's memory: two million take a quarter GB.

    Args:
        path: entities.parquet, or the entities of a saved index; row i is the entity with label i.

    Attributes:
        counts: Images per entity, `[len(self)]`; zeros where the file does not say.

    Raises:
        ValueError: If there is no such file, a column is missing, or the rows are not in the order of their labels.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        if not Path(path).is_file():
            raise ValueError(f"entities {path} does not exist.")
        schema = pq.read_schema(path)
        check_columns(self.path, schema.names, COLUMNS)
        self.build_id = (schema.metadata or {}).get(BUILD_ID)
        extra = [name for name in ("entity_label", "count") if name in schema.names]
        table = pq.read_table(path, columns=[*COLUMNS, *extra]).combine_chunks()
        if "entity_label" in extra and not np.array_equal(table.column("entity_label"), np.arange(len(table))):
            raise ValueError(f"{path}: row i must hold entity_label i; rebuild with --restart_from label_entities.")
        self.columns = {name: table.column(name) for name in COLUMNS}
        self.counts = np.array(table.column("count")) if "count" in extra else np.zeros(len(table), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.columns["name"])

    def __getitem__(self, label: int) -> dict[str, str | None]:
        return {name: column[label].as_py() for name, column in self.columns.items()}

    def to_lists(self) -> dict[str, list[str | None]]:
        """The columns as lists, in order of entity_label."""
        return {name: column.to_pylist() for name, column in self.columns.items()}

    def sha256(self) -> str:
        """Hash of the entity ids in order."""
        return ids_sha256(self.columns["entity_id"].to_pylist())

    def is_build_of(self, rows: Any) -> bool:
        """Whether these are the entities that rows of files, whose metadata name their build, have labels of."""
        return self.build_id is not None and set(build_ids(rows)) == {self.build_id}

    def check_build(self, rows: ParquetRows) -> None:
        """Checks that files, whose metadata may name their build, and the first of their rows are of these entities.

        Raises:
            ValueError: If they come from another build, or lack `entities` or `entity_labels`.
        """
        for file, build_id in zip(rows.files, build_ids(rows), strict=True):
            if None not in (build_id, self.build_id) and build_id != self.build_id:
                self._refuse(f"{file} is of build {build_id.decode()}, {self.path} of {self.build_id.decode()}.")
        labeled = rows.with_columns({name: name for name in ("entities", "entity_labels")})
        for row, _ in zip(labeled, range(NUM_CHECKED_ROWS), strict=False):
            for entity, label in zip(row["entities"] or (), row["entity_labels"] or (), strict=True):
                known, found = self[label]["entity_id"] if 0 <= label < len(self) else "none", entity["entity_id"]
                if found != known:
                    self._refuse(f"entity_label {label} is {known} in {self.path}, but a row has {found} there.")

    @staticmethod
    def _refuse(reason: str) -> None:
        raise ValueError(
            f"{reason} The dataset and entities.parquet come from different builds; rebuild with "
            "--restart_from label_entities."
        )
