"""The report's images: those around the threshold, where it is decided, and evenly spaced ones, for the whole."""

import base64
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from data_scripts.images.filter_entities import choose_entities
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.report.card import BuildResult
from data_scripts.schema import Shard


NUM_IMAGES = 60
NUM_NEAREST = 12
NUM_SHARDS = 12
READ_ROWS = 256
COLUMNS = ["row", "image", "alt_text", "candidates"]


@dataclass(frozen=True)
class Pair:
    """An image and an entity, ordered by their distance from the threshold."""

    distance: float
    shard: int
    row: int


def images_around_threshold(result: BuildResult) -> tuple[list[dict], list[dict]]:
    """The images nearest to the threshold, above and below: if they look alike, it stands at the wrong place."""
    above, below = nearest_pairs(result)
    return tuple([describe(row, result) for row in rows_of_pairs(pairs, result)] for pairs in (above, below))


def spaced_images(result: BuildResult) -> list[dict]:
    """A contact sheet: evenly spaced images, what was kept of them and what was dropped."""
    return [describe(row, result) for row in spaced_rows(result)]


def sampled_shards(result: BuildResult) -> Sequence[Shard]:
    """Some shards, evenly spaced."""
    shards = result.build.shards
    return shards[:: max(1, -(-len(shards) // NUM_SHARDS))]


def nearest_pairs(result: BuildResult) -> tuple[list[Pair], list[Pair]]:
    """Pairs of some shards just above the threshold and just below, nearest first, one per image."""
    threshold = result.thresholds.default
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for shard in sampled_shards(result):
        found: tuple[list[Pair], list[Pair]] = ([], [])
        scored = pq.ParquetFile(result.build.stage_file("score_entities", shard))
        for batch in scored.iter_batches(columns=["row", "candidates"]):
            for row, candidates in zip(*(batch[name].to_pylist() for name in ("row", "candidates")), strict=True):
                entities = choose_entities(candidates, disambiguation=result.build.args.link.disambiguation)
                if entities:
                    best = entities[0]["similarity"]  # The row stays or goes with its most similar entity.
                    found[best < threshold].append(Pair(abs(best - threshold), shard.index, row))
        for side, new in zip(sides, found, strict=True):
            side[:] = heapq.nsmallest(NUM_NEAREST, [*side, *new], key=lambda pair: (pair.distance, pair.row))
    return sides


def rows_of_pairs(pairs: Iterable[Pair], result: BuildResult) -> list[dict]:
    """The scored rows of some pairs, in their order."""
    wanted: dict[int, set[int]] = {}
    for pair in pairs:
        wanted.setdefault(pair.shard, set()).add(pair.row)
    found = {}
    for index, rows in wanted.items():
        for row in scored_rows(index, result):
            if row["row"] in rows:
                found[index, row["row"]] = row
    return [found[pair.shard, pair.row] for pair in pairs]


def spaced_rows(result: BuildResult) -> Iterator[dict]:
    """Scored rows, evenly spaced over some shards."""
    shards = sampled_shards(result)
    per_shard = -(-NUM_IMAGES // len(shards))
    for shard in shards:
        num_rows = pq.read_metadata(result.build.stage_file("score_entities", shard)).num_rows
        step = max(1, num_rows // per_shard)
        rows = (row for position, row in enumerate(scored_rows(shard.index, result)) if position % step == step // 2)
        yield from (row for row, _ in zip(rows, range(per_shard), strict=False))


def scored_rows(index: int, result: BuildResult) -> Iterator[dict]:
    """Scored rows of a shard, each with the entities that were published of it."""
    build, shard = result.build, result.build.shards[index]
    labelled = pq.read_table(build.stage_file("label_entities", shard), columns=["row", "entities"])
    kept = {row["row"]: {entity["entity_id"] for entity in row["entities"]} for row in labelled.to_pylist()}
    for batch in pq.ParquetFile(build.stage_file("score_entities", shard)).iter_batches(READ_ROWS, columns=COLUMNS):
        for row in batch.to_pylist():
            yield row | {"kept": kept.get(row["row"], set())}


def describe(row: dict, result: BuildResult) -> dict:
    """One image with its alt-text and entities, each tagged `kept`, `rare` or `dropped`."""
    kb = open_knowledge_base(result.build.knowledge_base)
    content = row["image"]["bytes"]
    entities = choose_entities(row["candidates"], disambiguation=result.build.args.link.disambiguation)
    for entity in entities:
        known = kb.rows_of([entity["entity_id"]])
        entity |= {name: kb.column(name, known)[0] for name in ("name", "description")}
        passed = entity["similarity"] >= result.thresholds.of(kb.column("types", known)[0])
        entity["tag"] = "kept" if entity["entity_id"] in row["kept"] else "rare" if passed else "dropped"
    return {
        "kind": "png" if content[:4] == b"\x89PNG" else "webp" if content[8:12] == b"WEBP" else "jpeg",
        "base64": base64.b64encode(content).decode(),
        "alt_text": row["alt_text"],
        "entities": entities,
    }
