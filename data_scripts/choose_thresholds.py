"""Counts the similarities of the chosen entities, shard by shard, and turns fractions to keep into thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_scripts.engine.files import hash_settings, remove_siblings
from data_scripts.images.filter_entities import HISTOGRAM_BINS, SimilarityHistogram, Thresholds, choose_entities
from data_scripts.phases import Build, entity_types, read_scored, score_phase
from data_scripts.schema import Shard
from modeling_mofi.whole_files import write_whole


@dataclass(frozen=True)
class CountJob:
    """Everything a worker needs to count the similarities of a shard; a call counts and writes them.

    Attributes:
        scored: Folder of the image phase.
        folder: Gets a file per shard: bins of all entities, then of the entities of each type.
        types: Types that have thresholds of their own as fractions.
    """

    scored: Path
    folder: Path
    knowledge_base: str
    disambiguation: str
    types: tuple[str, ...]
    name: str = "choose_thresholds"

    def path(self, shard: Shard) -> Path:
        """File of a shard."""
        return self.folder / f"{shard.index:06d}.npz"

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is counted."""
        return self.path(shard).is_file()

    def __call__(self, shard: Shard) -> None:
        histograms = [SimilarityHistogram() for _ in (None, *self.types)]
        trials = wins = 0
        for batch in read_scored(shard, scored=self.scored):
            chosen = [
                entity
                for candidates in batch["candidates"]
                for entity in choose_entities(candidates, disambiguation=self.disambiguation)
            ]
            controls = zip(batch["candidates"], batch["control"], strict=True)
            won = [found[0]["similarity"] > control for found, control in controls if control is not None]
            trials, wins = trials + len(won), wins + sum(won)
            histograms[0].add([entity["similarity"] for entity in chosen])
            types = [entity_types(self.knowledge_base, entity["entity_id"]) if self.types else () for entity in chosen]
            for kind, histogram in zip(self.types, histograms[1:], strict=True):
                pairs = zip(chosen, types, strict=True)
                histogram.add([entity["similarity"] for entity, found in pairs if kind in found])
        counts = np.stack([histogram.counts for histogram in histograms])
        row, position = np.nonzero(counts)
        with write_whole(self.path(shard)) as temporary, temporary.open("wb") as file:
            np.savez(file, row=row, position=position, counts=counts[row, position], trials=trials, wins=wins)

    def add_up(self, shards: tuple[Shard, ...]) -> list[SimilarityHistogram]:
        """What all shards counted: all entities, then the entities of each type."""
        total = np.zeros((1 + len(self.types), HISTOGRAM_BINS), dtype=np.int64)
        histograms = [SimilarityHistogram(counts) for counts in total]
        for shard in shards:
            with np.load(self.path(shard)) as found:
                total[found["row"], found["position"]] += found["counts"]
                histograms[0].trials += int(found["trials"])
                histograms[0].wins += int(found["wins"])
        return histograms


def choose_thresholds(
    build: Build, *, run: Callable[[CountJob, Sequence[Shard]], None]
) -> tuple[Thresholds, SimilarityHistogram]:
    """The thresholds, from the settings or from the similarities of all shards; and those similarities, counted.

    Args:
        run: Calls a job on shards and returns when they are done.
    """
    options = build.args.filter
    fractions = build.args.numbers_by_type("keep_fraction_by_type")
    settings = [build.config_hash("score_entities"), build.args.link.disambiguation, sorted(fractions)]
    folder = build.stages_dir / "choose_thresholds"
    job = CountJob(
        scored=score_phase(build).folder,
        folder=folder / hash_settings(settings)[:16],
        knowledge_base=build.knowledge_base,
        disambiguation=build.args.link.disambiguation,
        types=tuple(sorted(fractions)),
    )
    remove_siblings(job.folder)
    run(job, build.shards)
    histogram, *of_types = job.add_up(build.shards)
    default = options.min_similarity
    if default is None and histogram.counts.any():
        default = histogram.threshold_for(options.keep_fraction)
    by_type = {
        kind: found.threshold_for(fractions[kind])
        for kind, found in zip(job.types, of_types, strict=True)
        if found.counts.any()
    }
    return Thresholds(default, by_type | build.args.numbers_by_type("min_similarity_by_type")), histogram
