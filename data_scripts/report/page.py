"""Writes `report.html`: one page that loads nothing, to trust or distrust the dataset by."""

import html
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from data_scripts.images.filter_entities import SimilarityHistogram
from data_scripts.report.card import BuildResult
from data_scripts.report.checks import check_build
from data_scripts.report.gold import measure_gold
from data_scripts.report.images import images_section, threshold_section
from data_scripts.report.linking import linking_section
from data_scripts.sources.pairs import read_pairs
from modeling_mofi.whole_files import write_text


NUM_ENTITIES = 24
NUM_TEXTS = 24
HISTOGRAM_BARS = 60
STYLE = Path(__file__).with_name("page.css")
EXAMPLE_COLUMNS = ("file", "row", "id", "error")


def write_report(result: BuildResult) -> None:
    """Writes the page."""
    build, summary = result.build, result.summary
    num_rows = sum(summary.rows.values())
    first = next(iter(result.totals.stages.values()))["rows_in"]
    sections = [
        f"<h1>I2E build report</h1><p class=lead>{num_rows:,} images with {summary.entities.num_rows:,} entities, "
        f"from {first:,} image and alt-text pairs ({num_rows / max(1, first):.1%} kept). "
        f"Build <code>{build.build_id}</code>, filter model "
        f"<code>{escape(build.args.filter.filter_model)}</code>.</p>",
        checks_section(result),
        gold_section(result),
        images_section(result),
        threshold_section(result),
        similarity_section(result),
        entities_section(result),
        stages_section(result),
        linking_section(result),
        texts_section(result),
    ]
    page = (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>I2E build report</title><style>{STYLE.read_text(encoding='utf-8')}</style>"
        f"<main>{''.join(sections)}</main></html>\n"
    )
    write_text(build.output_dir / "report.html", page)


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def checks_section(result: BuildResult) -> str:
    """What to know first; reasons to look closer come first and are marked."""
    checks = check_build(result)
    items = "".join(f"<li class={'bad' if check.is_bad else 'good'}>{escape(check.text)}" for check in checks)
    num_bad = sum(check.is_bad for check in checks)
    verdict = f"{num_bad} of {len(checks)} checks say: look closer" if num_bad else "No check speaks against it"
    return f"<h2>{verdict}</h2><ul class=checks>{items}</ul>"


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
    first = max(1, next(iter(result.totals.stages.values()))["rows_in"])
    rows = []
    for name, counts in result.totals.stages.items():
        reasons = "<br>".join(f"{escape(reason)} {count:,}" for reason, count in counts["dropped"].items())
        width = 100 * counts["rows_out"] / first
        rows.append(
            f"<tr><td>{name}<td class=num>{counts['rows_in']:,}<td class=num>{counts['rows_out']:,}"
            f"<td class=wide><div class=bar style='width:{width:.1f}%'></div><td>{reasons or '&ndash;'}"
        )
    notes = "".join(f"<p>{escape(note)}: {count:,} rows.</p>" for note, count in result.totals.notes.items())
    return (
        "<h2>Where the rows went</h2><table><tr><th>stage<th class=num>in<th class=num>out<th>left of all<th>dropped"
        f"{''.join(rows)}</table>{notes}{unreadable_rows(result)}"
    )


def unreadable_rows(result: BuildResult) -> str:
    """The first few rows that could not be read for each reason, so that a person finds them."""
    lines = [
        "<tr>" + "".join(f"<td>{escape(text)}" for text in (reason, *map(example.get, EXAMPLE_COLUMNS)))
        for reason, examples in result.totals.examples.items()
        for example in examples
    ]
    heads = "".join(f"<th>{name}" for name in ("reason", *EXAMPLE_COLUMNS))
    return f"<h3>Rows that could not be read</h3><table><tr>{heads}{''.join(lines)}</table>" if lines else ""


def similarity_section(result: BuildResult) -> str:
    """Histogram of similarities with the threshold, and what other thresholds would keep."""
    histogram, threshold = result.histogram, result.thresholds.default
    shares = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)
    by_type = result.thresholds.by_type
    others = ", ".join(f"{escape(kind)} {value:.4f}" for kind, value in sorted(by_type.items()))
    cells = "".join(
        f"<tr><td class=num>{histogram.threshold_for(share):.3f}<td class=num>{share:.0%}" for share in shares
    )
    return (
        f"<h2>Similarity of image and entity</h2><p>The threshold is {threshold:.4f}; it keeps "
        f"{histogram.fraction_kept(threshold):.1%} of {int(histogram.counts.sum()):,} (image, entity) pairs. "
        f"Rare entities are dropped after it.{f' Types with thresholds of their own: {others}.' if others else ''}</p>"
        f"<div class=row>{histogram_svg(histogram, threshold)}"
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


def texts_section(result: BuildResult) -> str:
    """Some alt-texts in which no entity was found: is the knowledge base missing something?"""
    texts = list(unlinked_texts(result, limit=NUM_TEXTS))
    items = "".join(f"<li>{escape(text[:160])}" for text in texts)
    return f"<h2>Texts without an entity</h2><ul class=texts>{items}</ul>" if texts else ""


def unlinked_texts(result: BuildResult, *, limit: int) -> Iterable[str]:
    """Distinct texts of the first shard that the text phase dropped, evenly spaced."""
    build = result.build
    linked = pq.read_table(build.stage_file("link_entities", build.shards[0]), columns=["row"])["row"].to_pylist()
    kept = set(linked)
    texts: dict[str, None] = {}
    for batch in read_pairs(build.shards[0], source=build.args.source):
        texts.update(
            {text: None for row, text in zip(batch["row"], batch["alt_text"], strict=True) if row not in kept}
        )
        if len(texts) > 100 * limit:
            break
    found = list(texts)
    return found[:: max(1, len(found) // limit)][:limit]
