"""The parts of the report about linking: names too common to name anything, and what probabilities say."""

import html
from collections import Counter

from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import most_common, open_text_statistics
from data_scripts.phases import Build
from data_scripts.report.card import BuildResult
from data_scripts.report.gold import iterate_rows, read_gold


NUM_COMMON = 24
NUM_BINS = 10


def linking_section(result: BuildResult) -> str:
    """The most common names of the texts, the listed ones, and the calibration of the links."""
    build = result.build
    kb, learned = open_knowledge_base(build.knowledge_base), open_text_statistics(str(build.statistics))
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td class=num>{count:,}<td class=num>{commonness:.2f}"
        for name, count, commonness in most_common(learned, kb, limit=NUM_COMMON)
    )
    dropped = sorted(map(kb.aliases.restore_key, learned.dropped.tolist()))
    listed = [
        f"<p>{label}: {html.escape(', '.join(words))}.</p>"
        for label, words in (("Never linked", dropped), ("Never common", build.args.link.not_boilerplate))
        if words
    ]
    return (
        "<h2>Names that hardly name</h2><p>In how many texts they stand, and the evidence against them: high where a "
        "name is in many texts and seldom alone. <code>boilerplate</code> drops one, <code>not_boilerplate</code> "
        f"keeps one.</p>{''.join(listed)}"
        f"<table><tr><th>name<th class=num>texts<th class=num>commonness{rows}</table>{calibration_table(build)}"
    )


def calibration_table(build: Build) -> str:
    """The share of right links beside their probability, where the source says what its texts name."""
    bins = calibrate(build, read_gold(build, build.args.run.gold_text_column))
    rows = "".join(
        f"<tr><td>{bin_ / NUM_BINS:.1f} to {(bin_ + 1) / NUM_BINS:.1f}"
        f"<td class=num>{num:,}<td class=num>{right / num:.1%}"
        for bin_, (num, right) in sorted(bins.items())
    )
    heading = "<h2>What the probability of a link says</h2>"
    return f"{heading}<table><tr><th>probability<th class=num>links<th class=num>right{rows}</table>" if rows else ""


def calibrate(build: Build, gold_text: dict[str, str]) -> dict[int, tuple[int, int]]:
    """Links, and right ones among them, for each tenth of probability; the candidates of texts that name something."""
    totals: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for shard in build.shards if gold_text else ():
        for row in iterate_rows(build.stage_file("link_entities", shard), ["image_id", "candidates"]):
            gold = gold_text.get(row["image_id"])
            for candidate in row["candidates"] if gold else ():
                bin_ = min(int(candidate["probability"] * NUM_BINS), NUM_BINS - 1)
                totals[bin_] += 1
                right[bin_] += candidate["entity_id"] == gold
    return {bin_: (num, right[bin_]) for bin_, num in totals.items()}
