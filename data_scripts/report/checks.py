"""What a person should know before trusting a dataset, as sentences; those that speak against it are marked."""

from dataclasses import dataclass

import numpy as np

from data_scripts.images.filter_entities import HISTOGRAM_BINS, SimilarityHistogram
from data_scripts.report.card import BuildResult


# Our limits; each says "look here", none says "wrong".
MAX_SHARE_WITHOUT_MENTION = 0.6
MAX_SHARE_OF_BAD_IMAGES = 0.05
MAX_SHARE_OF_ONE_ENTITY = 0.05
MIN_SPREAD = 0.02
MIN_WINS = 0.8
MIN_IMAGES_TO_LEARN = 5


@dataclass(frozen=True)
class Check:
    """A finding.

    Attributes:
        is_bad: Whether it is a reason to look closer.
        text: One sentence.
    """

    is_bad: bool
    text: str


def check_build(result: BuildResult) -> list[Check]:
    """Findings about texts, images, filter model and entities; those to look at first."""
    checks = [check_choice(result), check_spread(result), check_largest(result), check_mentions(result)]
    return sorted([*checks, check_images(result), check_rare(result)], key=lambda check: not check.is_bad)


def share(stage: dict, names: tuple[str, ...] | None = None) -> float:
    """Rows that a stage dropped, for some reasons or for all, as a share of those that came in."""
    dropped = [count for reason, count in stage["dropped"].items() if names is None or reason in names]
    return sum(dropped) / max(1, stage["rows_in"])


def check_mentions(result: BuildResult) -> Check:
    """Whether most texts name something that the knowledge base knows."""
    found = share(result.totals.stages["recognize_mentions"])
    text = (
        f"{found:.0%} of the texts name no entity of the knowledge base; some of them stand at the end of this page."
    )
    return Check(found > MAX_SHARE_WITHOUT_MENTION, text)


def check_images(result: BuildResult) -> Check:
    """Whether the images are whole."""
    found = share(result.totals.stages["decode_images"])
    return Check(found > MAX_SHARE_OF_BAD_IMAGES, f"{found:.1%} of the images could not be used.")


def check_choice(result: BuildResult) -> Check:
    """Whether the filter model knows what it sees: chance would be right for half of the images."""
    trials = result.histogram.trials
    found = result.histogram.wins / max(1, trials)
    text = (
        f"Given an image's own entity and another image's, the filter model prefers its own for {found:.0%} of "
        f"{trials:,} images; chance would for 50%."
    )
    return Check(found < MIN_WINS, text)


def check_spread(result: BuildResult) -> Check:
    """Whether the filter model tells images apart at all."""
    low, high = quantile(result.histogram, 0.05), quantile(result.histogram, 0.95)
    text = f"Nine in ten similarities lie between {low:.3f} and {high:.3f}"
    if high - low < MIN_SPREAD:
        return Check(True, f"{text}: so close together that the filter model hardly tells images apart.")
    return Check(False, f"{text}.")


def check_largest(result: BuildResult) -> Check:
    """Whether one entity, most often a misread common word, has a large part of the images."""
    rows = max(1, sum(result.summary.rows.values()))
    largest = max(result.summary.entities.to_pylist(), key=lambda row: row["count"])
    found = largest["count"] / rows
    text = f"The most frequent entity, {largest['name']}, is in {found:.1%} of the images."
    return Check(found > MAX_SHARE_OF_ONE_ENTITY, text)


def check_rare(result: BuildResult) -> Check:
    """How much of the label space has enough images to be learned."""
    counts = result.summary.entities["count"].to_numpy()
    text = f"Half of the entities have {int(np.median(counts)):,} images or fewer"
    few = float((counts < MIN_IMAGES_TO_LEARN).mean())
    return Check(few > 0.5, f"{text}; {few:.0%} have fewer than {MIN_IMAGES_TO_LEARN}.")


def quantile(histogram: SimilarityHistogram, fraction: float) -> float:
    """The similarity below which a fraction of the pairs lies, to a bin's width."""
    below = np.cumsum(histogram.counts)
    return int(np.searchsorted(below, fraction * below[-1])) / HISTOGRAM_BINS * 2 - 1
