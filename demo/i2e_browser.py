"""Rows of an I2E build for people to look at: image, alt-text, mentions, entities kept and dropped and why."""

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modeling_mofi.data.entity_table import EntityTable
from modeling_mofi.whole_files import try_read_json


logger = logging.getLogger(__name__)


@dataclass
class ShownEntity:
    """An entity of an image; `reason` is empty where it was kept.

    Attributes:
        prior: How likely the name means it, wherever it stands.
        probability: How likely it does in this text.
    """

    entity_id: str
    name: str
    similarity: float | None
    reason: str = ""
    prior: float | None = None
    probability: float | None = None


@dataclass
class ShownRow:
    """A row of a build."""

    image: bytes
    alt_text: str
    mentions: list[tuple[int, int]] = field(default_factory=list)
    entities: list[ShownEntity] = field(default_factory=list)


class I2EBrowser:
    """A build's rows by number; rows that the last stages dropped are there too if the stages' folders are.

    Args:
        folder: As `python -m data_scripts.build_i2e` writes it.

    Raises:
        ValueError: If the folder is no build.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        table = self.folder / "entities.parquet"
        self.scored = sorted((self.folder / "stages" / "score_entities").glob("*.parquet"))
        self.published = sorted((self.folder / "data").glob("*.parquet"))
        if not table.is_file() or not self.published:
            raise ValueError(f"{folder} is no I2E build: it has no entities.parquet or no data/*.parquet.")
        entities = EntityTable(table).to_lists()
        self.names = dict(zip(entities["entity_id"], entities["name"], strict=True))
        self.files = [pq.ParquetFile(path) for path in self.scored or self.published]
        settings = try_read_json(self.folder / "stages" / "settings.json") or {}
        self.knowledge_base: str = settings.get("knowledge_base", "")
        # A Parquet file has one position: two users who read it at once would read each other's bytes.
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self.files)

    def __getitem__(self, number: int) -> ShownRow:
        if not 0 <= number < len(self):
            raise IndexError(f"Row {number} is outside [0, {len(self)}).")
        for place, file in enumerate(self.files):
            if number < file.metadata.num_rows:
                with self.lock:
                    row = read_row(file, number)
                return self._scored_row(row, self.scored[place].name) if self.scored else self._published_row(row)
            number -= file.metadata.num_rows
        raise AssertionError("Row counts changed while reading.")

    def find(self, text: str, *, limit: int = 50) -> list[int]:
        """Numbers of the rows whose alt-text contains a text, whatever its case."""
        wanted, found, first = text.lower(), [], 0
        for file in self.files:
            for group in range(file.num_row_groups):
                with self.lock:
                    texts = file.read_row_group(group, columns=["alt_text"]).column("alt_text").to_pylist()
                found += [first + place for place, alt_text in enumerate(texts) if wanted in (alt_text or "").lower()]
                first += len(texts)
                if len(found) >= limit:
                    return found[:limit]
        return found

    def _published_row(self, row: dict[str, Any]) -> ShownRow:
        entities = [
            ShownEntity(entity["entity_id"], entity["name"], entity["similarity"]) for entity in row["entities"]
        ]
        return ShownRow(row["image"]["bytes"], row["alt_text"], entities=entities)

    def _scored_row(self, row: dict[str, Any], shard: str) -> ShownRow:
        filtered, labeled = (
            self._entity_ids(stage, shard, row["row"]) for stage in ("filter_entities", "label_entities")
        )
        entities: dict[str, ShownEntity] = {}
        for candidate in sorted(row["candidates"], key=lambda candidate: -(candidate["similarity"] or -1)):
            entity_id = candidate["entity_id"]
            reason = "" if entity_id in labeled else "too few images" if entity_id in filtered else "not in the image"
            name = self.names.get(entity_id, entity_id)
            likely = {key: candidate.get(key) for key in ("prior", "probability")}
            entities.setdefault(entity_id, ShownEntity(entity_id, name, candidate["similarity"], reason, **likely))
        mentions = [(mention["start"], mention["end"]) for mention in row["mentions"]]
        ordered = sorted(entities.values(), key=lambda entity: bool(entity.reason))
        return ShownRow(row["image"]["bytes"], row["alt_text"], mentions, ordered)

    def _entity_ids(self, stage: str, shard: str, row: int) -> set[str]:
        path = self.folder / "stages" / stage / shard
        if not path.is_file():
            return set()
        rows = pq.read_table(path, columns=["row", "entities"], filters=[("row", "=", row)]).to_pylist()
        return {entity["entity_id"] for found in rows for entity in found["entities"]}


def read_row(file: pq.ParquetFile, number: int) -> dict[str, Any]:
    """One row, out of its row group alone."""
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if number < size:
            return file.read_row_group(group).slice(number, 1).to_pylist()[0]
        number -= size
    raise IndexError(number)
