"""Chooses one entity per mention, by text, by image or by both, and keeps it if the image shows it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log

import numpy as np

from data_scripts.schema import DROP_REASON, Batch, KeptEntity, ScoredCandidate


# Our default: a difference of 0.1 in similarity weighs as much as a factor e in probability.
IMAGE_WEIGHT = 10.0
MIN_PROBABILITY = 1e-6
HISTOGRAM_BINS = 20_000


@dataclass(frozen=True)
class Thresholds:
    """Smallest similarity to keep: one for all, and others for some types of entities.

    Attributes:
        default: Cosine in [-1, 1].
        by_type: Type id to cosine.
    """

    default: float
    by_type: dict[str, float] = field(default_factory=dict)

    def of(self, types: list[str]) -> float:
        """The threshold of an entity: the largest of those of its types, else the default."""
        found = [self.by_type[kind] for kind in types if kind in self.by_type]
        return max(found) if found else self.default


def filter_entities(
    batch: Batch, *, disambiguation: str, thresholds: Thresholds, types_of: Callable[[str], list[str]] | None = None
) -> Batch:
    """Adds `entities` (entity_id, similarity), best first, and drops rows left with none.

    Args:
        batch: Column `candidates` with similarities.
        disambiguation: `text`, `image` or `both`.
        types_of: Types of an entity id; needed for thresholds by type.
    """
    batch["entities"] = [
        [
            chosen
            for chosen in choose_entities(candidates, disambiguation=disambiguation)
            if chosen["similarity"] >= thresholds.of(types_of(chosen["entity_id"]) if types_of else [])
        ]
        for candidates in batch["candidates"]
    ]
    batch[DROP_REASON] = [None if entities else "similarity below threshold" for entities in batch["entities"]]
    return batch


def choose_entities(candidates: list[ScoredCandidate], *, disambiguation: str) -> list[KeptEntity]:
    """The best candidate of each mention, each entity once, most similar first."""
    chosen: dict[int, tuple[tuple[float, str], ScoredCandidate]] = {}
    for candidate in candidates:
        key = (rank(candidate, disambiguation), candidate["entity_id"])
        if candidate["mention"] not in chosen or key > chosen[candidate["mention"]][0]:
            chosen[candidate["mention"]] = (key, candidate)
    entities = {candidate["entity_id"]: candidate["similarity"] for _, candidate in chosen.values()}
    ordered = sorted(entities.items(), key=lambda item: (-item[1], item[0]))
    return [{"entity_id": entity_id, "similarity": similarity} for entity_id, similarity in ordered]


def rank(candidate: ScoredCandidate, disambiguation: str) -> float:
    """What decides between the candidates of a mention."""
    if disambiguation == "image":
        return candidate["similarity"]
    if disambiguation == "text":
        return candidate["probability"]
    return log(max(candidate["probability"], MIN_PROBABILITY)) + IMAGE_WEIGHT * candidate["similarity"]


class SimilarityHistogram:
    """Counts similarities in fine bins: what a threshold would keep, in memory that does not grow with the input.

    Attributes:
        trials: Images that were also compared with another image's entity.
        wins: Those of them that are more similar to their own; half of them if the model sees nothing.
    """

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64) if counts is None else counts
        self.trials = self.wins = 0

    def add(self, similarities: list[float]) -> None:
        """Counts some similarities."""
        positions = ((np.asarray(similarities, dtype=np.float64) + 1) / 2 * HISTOGRAM_BINS).astype(np.int64)
        self.counts += np.bincount(positions.clip(0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)

    def threshold_for(self, fraction: float) -> float:
        """The largest bin edge that keeps at least a fraction of what was counted."""
        kept = np.cumsum(self.counts[::-1])
        wanted = fraction * kept[-1]
        position = HISTOGRAM_BINS - 1 - int(np.searchsorted(kept, wanted))
        return position / HISTOGRAM_BINS * 2 - 1

    def fraction_kept(self, threshold: float) -> float:
        """The fraction of the counted similarities at or above a threshold, to a bin's width."""
        first = int(np.clip(round((threshold + 1) / 2 * HISTOGRAM_BINS), 0, HISTOGRAM_BINS))
        return float(self.counts[first:].sum() / max(1, self.counts.sum()))
