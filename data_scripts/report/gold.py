"""Measures a build against gold columns of its source: never an input, only a yardstick."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from data_scripts.images.filter_entities import choose_entities
from data_scripts.knowledge_base.store import KnowledgeBase, open_knowledge_base
from data_scripts.labels.write_dataset import published_rows
from data_scripts.phases import Build
from data_scripts.sources.pairs import read_pairs
from data_scripts.text.tokens import alias_key


Pairs = dict[str, set[str]]


@dataclass(frozen=True)
class GoldMeasure:
    """One line of the table: a share and what it is a share of."""

    name: str
    share: float
    total: int


def measure_gold(build: Build) -> list[GoldMeasure]:
    """Recall over the texts that name the gold entity, and precision of the entities after each step."""
    run = build.args.run
    if not (run.gold_column or run.gold_text_column):
        return []
    gold, gold_text = read_gold(build, run.gold_column), read_gold(build, run.gold_text_column)
    linked, ambiguous = linked_pairs(build, gold_text)
    scored = chosen_pairs(build)
    published = {
        row["image_id"]: {entity["entity_id"] for entity in row["entities"]}
        for row in published_rows(build.output_dir / "data", columns=["image_id", "entities"])
    }
    measures = []
    if gold_text:
        named = {image_id: {entity_id} for image_id, entity_id in gold_text.items()}
        measures.append(share_found("linking: entities named by the text that were found (recall)", named, linked))
        hard = {image_id: entities for image_id, entities in named.items() if image_id in ambiguous}
        measures.append(share_found("the same, where the name has several candidates", hard, linked))
        measures.append(share_found("linking: linked entities that the text does name (precision)", linked, named))
    if gold:
        shown = {image_id: {entity_id} for image_id, entity_id in gold.items()}
        measures.append(share_found("before the filter: entities that are the image's own (precision)", scored, shown))
        measures.append(share_found("published: entities that are the image's own (precision)", published, shown))
        measures.append(share_found("published: images that got their own entity (recall)", shown, published))
    return measures


def share_found(name: str, wanted: Pairs, found: Pairs) -> GoldMeasure:
    """The share of (image, entity) pairs that are also among others."""
    total = sum(len(entities) for entities in wanted.values())
    hits = sum(len(entities & found.get(image_id, set())) for image_id, entities in wanted.items())
    return GoldMeasure(name, hits / max(1, total), total)


def read_gold(build: Build, column: str | None) -> dict[str, str]:
    """The gold entity of each image that has one."""
    if not column:
        return {}
    source = replace(build.args.source, keep_columns=[column])
    gold: dict[str, str] = {}
    for shard in build.shards:
        for batch in read_pairs(shard, source=source):
            gold |= {key: value for key, value in zip(batch["image_id"], batch[column], strict=True) if value}
    return gold


def linked_pairs(build: Build, gold_text: dict[str, str]) -> tuple[Pairs, set[str]]:
    """The likeliest entity of every mention; and the images whose gold entity hides behind an ambiguous name."""
    kb = open_knowledge_base(build.knowledge_base)
    linked: Pairs = {}
    ambiguous: set[str] = set()
    for shard in build.shards:
        path = build.stage_file("link_entities", shard)
        for row in iterate_rows(path, ["image_id", "mentions", "candidates"]):
            best: dict[int, dict] = {}
            for candidate in row["candidates"]:
                current = best.get(candidate["mention"])
                if current is None or candidate["probability"] > current["probability"]:
                    best[candidate["mention"]] = candidate
            linked[row["image_id"]] = {candidate["entity_id"] for candidate in best.values()}
            if is_ambiguous(row["mentions"], gold_text.get(row["image_id"]), kb):
                ambiguous.add(row["image_id"])
    return linked, ambiguous


def is_ambiguous(mentions: list[dict], entity_id: str | None, kb: KnowledgeBase) -> bool:
    """Whether an entity is one of several candidates of some mention."""
    for mention in mentions if entity_id else ():
        alias = kb.aliases.get(alias_key(mention["text"]), -1)
        candidates = kb.candidates[kb.offsets[alias] : kb.offsets[alias + 1]] if alias >= 0 else ()
        if len(candidates) > 1 and entity_id in kb.entity_ids(candidates):
            return True
    return False


def chosen_pairs(build: Build) -> Pairs:
    """The chosen entity of every mention, whatever its similarity."""
    mode = build.args.link.disambiguation
    pairs: Pairs = {}
    for shard in build.shards:
        for row in iterate_rows(build.stage_file("score_entities", shard), ["image_id", "candidates"]):
            pairs[row["image_id"]] = {e["entity_id"] for e in choose_entities(row["candidates"], disambiguation=mode)}
    return pairs


def iterate_rows(path: Path, columns: list[str]) -> Iterator[dict]:
    """Rows of a Parquet file, a batch in memory at a time."""
    for batch in pq.ParquetFile(path).iter_batches(1000, columns=columns):
        yield from batch.to_pylist()
