"""The parts of the report about linking: names too common to name anything, and what probabilities say."""

from collections import Counter
from typing import Any

from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import most_common, open_text_statistics
from data_scripts.phases import Build
from data_scripts.report.card import BuildResult
from data_scripts.report.gold import iterate_rows, read_gold


NUM_COMMON = 24
NUM_BINS = 10


def describe_linking(result: BuildResult) -> dict[str, Any]:
    """The most common names of the texts, the listed ones, and the calibration of the links."""
    build = result.build
    kb, learned = open_knowledge_base(build.knowledge_base), open_text_statistics(str(build.statistics))
    bins = calibrate(build, read_gold(build, build.args.run.gold_text_column))
    return {
        "common_names": list(most_common(learned, kb, limit=NUM_COMMON)),
        "never_linked": sorted(map(kb.aliases.restore_key, learned.dropped.tolist())),
        "calibration": [
            {"low": bin_ / NUM_BINS, "high": (bin_ + 1) / NUM_BINS, "num": num, "right": right}
            for bin_, (num, right) in sorted(bins.items())
        ],
    }


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
