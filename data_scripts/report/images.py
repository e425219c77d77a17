"""The report's images: those around the threshold, where it is decided, and evenly spaced ones, for the whole."""

import base64
import heapq
import html
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
LEGEND = (
    "<span class=kept-tag>kept</span> <span class=dropped-tag>dropped: similarity</span> "
    "<span class=rare-tag>dropped: too rare</span>"
)


@dataclass(frozen=True)
class Pair:
    """An image and an entity, ordered by their distance from the threshold."""

    distance: float
    shard: int
    row: int


def threshold_section(result: BuildResult) -> str:
    """The images nearest to the threshold on either side: if they look alike, it stands at the wrong place."""
    above, below = nearest_pairs(result)
    parts = []
    for title, pairs in (("Just above: kept", above), ("Just below: dropped", below)):
        if cards := "".join(image_card(row, result) for row in rows_of_pairs(pairs, result)):
            parts.append(f"<h3>{title}</h3><div class=sheet>{cards}</div>")
    if not parts:
        return ""
    return f"<h2>Around the threshold</h2><p>If these two look alike, the threshold is wrong.</p>{''.join(parts)}"


def images_section(result: BuildResult) -> str:
    """A contact sheet: evenly spaced images, what was kept of them and what was dropped."""
    cards = "".join(image_card(row, result) for row in spaced_rows(result))
    lead = f"Evenly spaced among the images that reached the filter. {LEGEND}"
    return f"<h2>Images</h2><p>{lead}</p><div class=sheet>{cards}</div>"


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


def image_card(row: dict, result: BuildResult) -> str:
    """One image with its alt-text and entities."""
    kb = open_knowledge_base(result.build.knowledge_base)
    data = row["image"]["bytes"]
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    image = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    tags = []
    for entity in choose_entities(row["candidates"], disambiguation=result.build.args.link.disambiguation):
        rows = kb.rows_of([entity["entity_id"]])
        name, description = kb.column("name", rows)[0], kb.column("description", rows)[0]
        passed = entity["similarity"] >= result.thresholds.of(kb.column("types", rows)[0])
        tag = "kept" if entity["entity_id"] in row["kept"] else "rare" if passed else "dropped"
        title = html.escape(f"{entity['entity_id']}: {description}")
        tags.append(
            f"<span class={tag}-tag title='{title}'>{html.escape(name)} {entity['similarity']:.3f}</span> "
            f"<small>{html.escape(description[:60])}</small>"
        )
    return (
        f"<figure><img src='{image}' alt='' loading=lazy><figcaption>{html.escape(row['alt_text'][:160])}"
        f"<div>{'<br>'.join(tags)}</div></figcaption></figure>"
    )
