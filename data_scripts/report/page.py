"""Writes `report.html`: one page that loads nothing, to trust or distrust the dataset by."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_scripts.images.filter_entities import SimilarityHistogram
from data_scripts.report.card import BuildResult
from data_scripts.report.checks import check_build
from data_scripts.report.gold import measure_gold
from data_scripts.report.images import images_around_threshold, spaced_images
from data_scripts.report.linking import describe_linking
from data_scripts.sources.pairs import read_pairs
from modeling_mofi.hub.templates import fill_template
from modeling_mofi.whole_files import write_text


TEMPLATE = Path(__file__).with_name("report.html.jinja")
NUM_TEXTS = 24
HISTOGRAM_BARS = 60
NUM_TICKS = 6
CHART_WIDTH, CHART_HEIGHT = 640, 200


def write_report(result: BuildResult) -> None:
    """Writes the page."""
    above, below = images_around_threshold(result)
    entities = result.summary.entities.to_pylist()
    page = fill_template(
        TEMPLATE,
        is_public=result.is_public,
        build=result.build,
        totals=result.totals,
        thresholds=result.thresholds,
        histogram=result.histogram,
        num_images=sum(result.summary.rows.values()),
        num_pairs=next(iter(result.totals.stages.values()))["rows_in"],
        entities=sorted(entities, key=lambda row: (-row["count"], row["entity_id"])),
        checks=check_build(result),
        gold=measure_gold(result.build),
        spaced=spaced_images(result),
        above=above,
        below=below,
        chart=draw_histogram(result.histogram, result.thresholds.default),
        unlinked=list(unlinked_texts(result, limit=NUM_TEXTS)),
        **describe_linking(result),
    )
    write_text(result.build.output_dir / "report.html", page)


def draw_histogram(histogram: SimilarityHistogram, threshold: float) -> dict[str, Any]:
    """Where the bars of the similarities, the numbers below them and the threshold stand, in pixels."""
    occupied, size = histogram.counts.nonzero()[0], len(histogram.counts)
    low, high = int(occupied[0]), int(occupied[-1]) + 1
    step = max(1, -(-(high - low) // HISTOGRAM_BARS))
    counts = [int(histogram.counts[start : start + step].sum()) for start in range(low, high, step)]
    bar_width, span = CHART_WIDTH / len(counts), len(counts) * step

    def cosine_at(share: float) -> float:
        return (low + span * share) / size * 2 - 1

    bars = []
    for index, count in enumerate(counts):
        tall = CHART_HEIGHT * count / max(counts)
        bars.append(
            {
                "x": round(index * bar_width, 1),
                "y": round(CHART_HEIGHT - tall, 1),
                "width": round(bar_width - 1, 1),
                "height": round(tall, 1),
                "is_kept": cosine_at((index + 0.5) / len(counts)) >= threshold,
            }
        )
    shares = [tick / (NUM_TICKS - 1) for tick in range(NUM_TICKS)]
    line = ((threshold + 1) / 2 * size - low) / span * CHART_WIDTH
    return {
        "width": CHART_WIDTH,
        "height": CHART_HEIGHT,
        "bars": bars,
        "ticks": [{"x": round(share * CHART_WIDTH, 1), "cosine": cosine_at(share)} for share in shares],
        "line": round(min(max(line, 0), CHART_WIDTH), 1),
    }


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
