"""entities.parquet in memory: what an entity_label stands for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .parquet_rows_mofi import check_columns


COLUMNS = ("entity_id", "name", "description")
BUILD_ID = b"mofi.build_id"  # In the schema's metadata of entities.parquet and of every shard of its data set.
NUM_CHECKED_ROWS = 10_000


class EntityTable:
    """`entity_id`, `name` and `description` by entity_label, in Arrow's memory: two million take a quarter GB.

    Args:
        path: entities.parquet; row i is the entity with label i.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        if not Path(path).is_file():
            raise ValueError(f"entities {path} does not exist.")
        schema = pq.read_schema(path)
        check_columns(self.path, schema.names, COLUMNS)
        self.build_id = (schema.metadata or {}).get(BUILD_ID)
        table = pq.read_table(path, columns=list(COLUMNS)).combine_chunks()
        self.columns = {name: table.column(name) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self.columns["name"])

    def __getitem__(self, label: int) -> dict[str, str | None]:
        return {name: column[label].as_py() for name, column in self.columns.items()}

    def check_build(self, files: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
        """Checks that rows with `entities` and `entity_labels` speak of these entities.

        Args:
            files: Parquet files whose metadata may name the build they come from.
            rows: Some of theirs.

        Raises:
            ValueError: If they come from another build.
        """
        for file in files:
            build_id = (pq.read_schema(file).metadata or {}).get(BUILD_ID)
            if None not in (build_id, self.build_id) and build_id != self.build_id:
                self._refuse(f"{file} is of build {build_id.decode()}, {self.path} of {self.build_id.decode()}.")
        for row, _ in zip(rows, range(NUM_CHECKED_ROWS), strict=False):
            for entity, label in zip(row["entities"] or (), row["entity_labels"] or (), strict=True):
                known, found = self[label]["entity_id"] if 0 <= label < len(self) else "none", entity["entity_id"]
                if found != known:
                    self._refuse(f"entity_label {label} is {known} in {self.path}, but a row has {found} there.")

    @staticmethod
    def _refuse(reason: str) -> None:
        raise ValueError(
            f"{reason} The data set and entities.parquet come from different builds; rebuild with "
            "--restart_from label_entities."
        )
