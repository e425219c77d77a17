"""The columns after each stage, with their types: what the stages promise one another and `train.py`.

A batch is a dict of equal-length lists. A stage takes a batch and returns it whole; it may fill `drop_reason`, and the
engine then removes those rows and counts them. It may fill `note` for rows it changed but kept (a text cut short).
Readers may fill all three: `drop_reason` is one of a few words that can be counted, `error` says of a dropped row what
exactly was wrong, of which the engine keeps the first few for people.
"""

from dataclasses import dataclass, field
from typing import Any, TypedDict

import pyarrow as pa


Batch = dict[str, list[Any]]


@dataclass(frozen=True)
class Shard:
    """A part of the source that one worker reads in one go.

    Attributes:
        index: Position in the plan; names the output.
        format: `parquet`, `tar`, `lines` or `hub`.
        path: File of the shard, or the id of a dataset on the Hub.
        start: First row (Parquet, Hub) or first byte (lines).
        stop: One past the last row or byte; None reads to the end.
        fingerprint: Stands for the content of the file.
        options: What else the reader of the format needs, as JSON can say it.
        max_rows: Rows after the first so many are left out.
    """

    index: int
    format: str
    path: str
    start: int = 0
    stop: int | None = None
    fingerprint: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    max_rows: int | None = None

    @property
    def name(self) -> str:
        """Of its files in every stage, without the ending."""
        return f"{self.index:06d}"


DROP_REASON = "drop_reason"
NOTE = "note"
ERROR = "error"
# The engine's own mark on every row: the index of its shard.
SHARD = "__shard__"

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
MENTION = pa.struct({"text": pa.string(), "start": pa.int32(), "end": pa.int32(), "recognizer": pa.string()})
# `mention` is the position of the mention in the row's list; `probability` is P(entity | text), NIL included.
CANDIDATE = pa.struct(
    {"mention": pa.int32(), "entity_id": pa.string(), "prior": pa.float32(), "probability": pa.float32()}
)
SCORED_CANDIDATE = pa.struct([*CANDIDATE, pa.field("similarity", pa.float32())])
KEPT_ENTITY = pa.struct({"entity_id": pa.string(), "similarity": pa.float32()})
ENTITY = pa.struct(
    {"entity_id": pa.string(), "name": pa.string(), "description": pa.string(), "similarity": pa.float32()}
)


class Mention(TypedDict):
    """A value of `MENTION`; `start` and `end` index the alt-text as it was."""

    text: str
    start: int
    end: int
    recognizer: str


class Candidate(TypedDict):
    """A value of `CANDIDATE`."""

    mention: int
    entity_id: str
    prior: float
    probability: float


class ScoredCandidate(Candidate):
    """A value of `SCORED_CANDIDATE`."""

    similarity: float


class KeptEntity(TypedDict):
    """A value of `KEPT_ENTITY`."""

    entity_id: str
    similarity: float


class Entity(KeptEntity):
    """A value of `ENTITY`."""

    name: str
    description: str


# `row` is the row's position in its input shard: with the shard it finds the image again.
PAIR = {"image_id": pa.string(), "row": pa.int64(), "alt_text": pa.string()}
ENTITIES_TABLE = pa.schema(
    {
        "entity_label": pa.int64(),
        "entity_id": pa.string(),
        "name": pa.string(),
        "description": pa.string(),
        "count": pa.int64(),
    }
)


def linked_schema(keep_columns: dict[str, pa.DataType]) -> pa.Schema:
    """Columns after `link_entities`: texts only, no image has been opened."""
    return pa.schema(
        PAIR | keep_columns | {"mentions": pa.list_(MENTION), "candidates": pa.list_(CANDIDATE)},
    )


def scored_schema(keep_columns: dict[str, pa.DataType]) -> pa.Schema:
    """Columns after `score_entities`: every candidate has its similarity, the image is as it will be published.

    `control` is the similarity with another image's entity: what chance gives.
    """
    columns = PAIR | keep_columns | {"image": IMAGE, "mentions": pa.list_(MENTION)}
    return pa.schema(columns | {"candidates": pa.list_(SCORED_CANDIDATE), "control": pa.float32()})


def filtered_schema() -> pa.Schema:
    """Columns after `filter_entities`: one small row per image that keeps at least one entity."""
    return pa.schema({"image_id": pa.string(), "row": pa.int64(), "entities": pa.list_(KEPT_ENTITY)})


def labeled_schema() -> pa.Schema:
    """Columns after `label_entities`; `split` is the published split of the row."""
    return pa.schema(
        {
            "row": pa.int64(),
            "split": pa.string(),
            "entities": pa.list_(KEPT_ENTITY),
            "entity_labels": pa.list_(pa.int64()),
        }
    )


def published_schema(keep_columns: dict[str, pa.DataType]) -> pa.Schema:
    """Columns of the dataset that `datasets.load_dataset` opens and `train.py` reads."""
    return pa.schema(
        {"image_id": pa.string(), "image": IMAGE, "alt_text": pa.string()}
        | {"entities": pa.list_(ENTITY), "entity_labels": pa.list_(pa.int64())}
        | keep_columns
    )


def num_rows(batch: Batch) -> int:
    """Rows of a batch."""
    return len(next(iter(batch.values()), ()))


def drop_rows(batch: Batch) -> tuple[Batch, list[str]]:
    """Removes the rows that carry a drop reason, and the reason column; returns the rest and the reasons."""
    reasons = batch.pop(DROP_REASON, None)
    if reasons is None or not any(reasons):
        return batch, []
    kept = [position for position, reason in enumerate(reasons) if not reason]
    return {name: [column[i] for i in kept] for name, column in batch.items()}, [r for r in reasons if r]
