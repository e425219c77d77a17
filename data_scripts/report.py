"""Writes `report.html`: one page that loads nothing, to trust or distrust the data set by."""

import base64
import html
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_scripts.build_phases import link_phase, score_phase
from data_scripts.dataset_card import BuildResult
from data_scripts.filter_entities import SimilarityHistogram, choose_entities
from data_scripts.knowledge_base import open_knowledge_base
from data_scripts.measure_gold import measure_gold
from data_scripts.read_pairs import read_pairs


NUM_IMAGES = 60
NUM_ENTITIES = 24
NUM_TEXTS = 24
HISTOGRAM_BARS = 60
STYLE = Path(__file__).with_name("report.css")


def write_report(result: BuildResult) -> None:
    """Writes the page."""
    build, summary = result.build, result.summary
    num_rows = sum(summary.rows.values())
    first = next(iter(result.totals["stages"].values()))["rows_in"]
    sections = [
        f"<h1>I2E build report</h1><p class=lead>{num_rows:,} images with {summary.entities.num_rows:,} entities, "
        f"from {first:,} image and alt-text pairs ({num_rows / max(1, first):.1%} kept). "
        f"Build <code>{build.build_id}</code>, filter model "
        f"<code>{escape(build.args.filter.filter_model)}</code>.</p>",
        gold_section(result),
        stages_section(result),
        similarity_section(result),
        entities_section(result),
        images_section(result),
        texts_section(result),
    ]
    page = (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>I2E build report</title><style>{STYLE.read_text(encoding='utf-8')}</style>"
        f"<main>{''.join(sections)}</main></html>\n"
    )
    (build.output_dir / "report.html").write_text(page, encoding="utf-8")


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def gold_section(result: BuildResult) -> str:
    """Recall and precision, where the source has gold columns."""
    run = result.build.args.run
    if not run.gold_column and not run.gold_text_column:
        return ""
    rows = "".join(
        f"<tr><td>{escape(measure.name)}<td class=num>{measure.share:.1%}<td class=num>{measure.total:,}"
        for measure in measure_gold(result.build)
    )
    return (
        "<h2>Against gold</h2><p>The source names the true entities; the build never reads them.</p>"
        f"<table><tr><th>share<th class=num>%<th class=num>of{rows}</table>"
    )


def stages_section(result: BuildResult) -> str:
    """Rows in, out and dropped, with a bar for what is left."""
    first = max(1, next(iter(result.totals["stages"].values()))["rows_in"])
    rows = []
    for name, counts in result.totals["stages"].items():
        reasons = "<br>".join(f"{escape(reason)} {count:,}" for reason, count in counts["dropped"].items())
        width = 100 * counts["rows_out"] / first
        rows.append(
            f"<tr><td>{name}<td class=num>{counts['rows_in']:,}<td class=num>{counts['rows_out']:,}"
            f"<td class=wide><div class=bar style='width:{width:.1f}%'></div><td>{reasons or '&ndash;'}"
        )
    notes = "".join(f"<p>{escape(note)}: {count:,} rows.</p>" for note, count in result.totals["notes"].items())
    return (
        "<h2>Where the rows went</h2><table><tr><th>stage<th class=num>in<th class=num>out<th>left of all<th>dropped"
        f"{''.join(rows)}</table>{notes}"
    )


def similarity_section(result: BuildResult) -> str:
    """Histogram of similarities with the threshold, and what other thresholds would keep."""
    histogram, threshold = result.histogram, result.thresholds.default
    shares = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)
    cells = "".join(
        f"<tr><td class=num>{histogram.threshold_for(share):.3f}<td class=num>{share:.0%}" for share in shares
    )
    return (
        f"<h2>Similarity of image and entity</h2><p>The threshold is {threshold:.4f}; it keeps "
        f"{histogram.fraction_kept(threshold):.1%} of {int(histogram.counts.sum()):,} (image, entity) pairs. "
        f"Rare entities are dropped after it.</p><div class=row>{histogram_svg(histogram, threshold)}"
        f"<table><tr><th class=num>threshold<th class=num>would keep{cells}</table></div>"
    )


def histogram_svg(histogram: SimilarityHistogram, threshold: float) -> str:
    """Bars of the similarities, those below the threshold pale."""
    occupied = histogram.counts.nonzero()[0]
    size = len(histogram.counts)
    low, high = int(occupied[0]), int(occupied[-1]) + 1
    step = max(1, -(-(high - low) // HISTOGRAM_BARS))
    bars = [int(histogram.counts[start : start + step].sum()) for start in range(low, high, step)]
    width, height, tallest = 640, 200, max(bars)
    span = len(bars) * step

    def x_of(cosine: float) -> float:
        return ((cosine + 1) / 2 * size - low) / span * width

    parts = []
    for index, count in enumerate(bars):
        cosine = (low + (index + 0.5) * step) / size * 2 - 1
        tall = height * count / tallest
        parts.append(
            f"<rect x={index * width / len(bars):.1f} y={height - tall:.1f} width={width / len(bars) - 1:.1f} "
            f"height={tall:.1f} class={'kept' if cosine >= threshold else 'dropped'} />"
        )
    for index in range(6):
        cosine = (low + span * index / 5) / size * 2 - 1
        anchor = "start" if index == 0 else "end" if index == 5 else "middle"
        parts.append(f"<text x={width * index / 5:.1f} y={height + 16} text-anchor={anchor}>{cosine:.2f}</text>")
    line = min(max(x_of(threshold), 0), width)
    parts.append(f"<line x1={line:.1f} x2={line:.1f} y1=0 y2={height} />")
    return f'<svg viewBox="0 0 {width} {height + 22}" width={width} role=img>{"".join(parts)}</svg>'


def entities_section(result: BuildResult) -> str:
    """The most and the least frequent entities."""
    entities = sorted(result.summary.entities.to_pylist(), key=lambda row: (-row["count"], row["entity_id"]))
    top = max(1, entities[0]["count"])
    tables = []
    for title, rows in (("Most frequent", entities[:NUM_ENTITIES]), ("Least frequent", entities[-NUM_ENTITIES:])):
        lines = "".join(
            f"<tr><td><b>{escape(row['name'])}</b> <small>{escape(row['description'])} {escape(row['entity_id'])}"
            f"</small><td class=num>{row['count']:,}<td class=narrow><div class=bar "
            f"style='width:{100 * row['count'] / top:.1f}%'></div>"
            for row in rows
        )
        tables.append(f"<div><h3>{title}</h3><table>{lines}</table></div>")
    return f"<h2>Entities</h2><div class=row>{''.join(tables)}</div>"


def images_section(result: BuildResult) -> str:
    """A contact sheet: evenly spaced images, what was kept of them and what was dropped."""
    cards = "".join(image_card(row, result) for row in spaced_rows(result))
    return (
        "<h2>Images</h2><p>Evenly spaced among the images that reached the filter. "
        "<span class=kept-tag>kept</span> <span class=dropped-tag>dropped: similarity</span> "
        f"<span class=rare-tag>dropped: too rare</span></p><div class=sheet>{cards}</div>"
    )


def spaced_rows(result: BuildResult) -> Iterator[dict]:
    """Scored rows, evenly spaced over some shards, each with the entities that were published."""
    build = result.build
    scored = score_phase(build)
    shards = build.shards[:: max(1, len(build.shards) // 12)]
    per_shard = -(-NUM_IMAGES // len(shards))
    for shard in shards:
        file = pq.ParquetFile(scored.data_path(shard.index))
        labelled = pq.read_table(build.stages_dir / "label_entities" / f"{shard.index:06d}.parquet").to_pylist()
        kept = {row["row"]: {entity["entity_id"] for entity in row["entities"]} for row in labelled}
        step = max(1, file.metadata.num_rows // per_shard)
        position = 0
        for batch in file.iter_batches(256, columns=["row", "image", "alt_text", "candidates"]):
            wanted = [i for i in range(batch.num_rows) if (position + i) % step == step // 2]
            for row in batch.take(wanted).to_pylist() if wanted else ():
                yield row | {"kept": kept.get(row["row"], set())}
            position += batch.num_rows


def image_card(row: dict, result: BuildResult) -> str:
    """One image with its alt-text and entities."""
    kb = open_knowledge_base(result.build.knowledge_base)
    data = row["image"]["bytes"]
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    image = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    tags = []
    for entity in choose_entities(row["candidates"], disambiguation=result.build.args.link.disambiguation):
        name = kb.column("name", kb.rows_of([entity["entity_id"]]))[0]
        passed = entity["similarity"] >= result.thresholds.default
        tag = "kept" if entity["entity_id"] in row["kept"] else "rare" if passed else "dropped"
        tags.append(
            f"<span class={tag}-tag title='{escape(entity['entity_id'])}'>{escape(name)} "
            f"{entity['similarity']:.2f}</span>"
        )
    return (
        f"<figure><img src='{image}' alt='' loading=lazy><figcaption>{escape(row['alt_text'][:160])}"
        f"<div>{' '.join(tags)}</div></figcaption></figure>"
    )


def texts_section(result: BuildResult) -> str:
    """Some alt-texts in which no entity was found: is the knowledge base missing something?"""
    texts = list(unlinked_texts(result, limit=NUM_TEXTS))
    items = "".join(f"<li>{escape(text[:160])}" for text in texts)
    return f"<h2>Texts without an entity</h2><ul class=texts>{items}</ul>" if texts else ""


def unlinked_texts(result: BuildResult, *, limit: int) -> Iterable[str]:
    """Distinct texts of the first shard that the text phase dropped, evenly spaced."""
    build = result.build
    linked = pq.read_table(link_phase(build).data_path(build.shards[0].index), columns=["row"])["row"].to_pylist()
    kept = set(linked)
    texts: dict[str, None] = {}
    for batch in read_pairs(build.shards[0], columns=build.columns):
        texts.update(
            {text: None for row, text in zip(batch["row"], batch["alt_text"], strict=True) if row not in kept}
        )
        if len(texts) > 100 * limit:
            break
    found = list(texts)
    return found[:: max(1, len(found) // limit)][:limit]
