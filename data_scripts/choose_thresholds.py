"""Counts the similarities of the chosen entities, shard by shard, and turns fractions to keep into thresholds."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from data_scripts.engine.files import hash_settings, save_arrays
from data_scripts.engine.jobs import Job, Steps, one_by_one, single
from data_scripts.images.filter_entities import HISTOGRAM_BINS, SimilarityHistogram, Thresholds, choose_entities
from data_scripts.phases import Build, entity_types, read_scored
from data_scripts.schema import Shard


def choose_thresholds(build: Build) -> Steps[tuple[Thresholds, SimilarityHistogram]]:
    """The thresholds, from the settings or from the similarities of all shards; and those similarities, counted."""
    options = build.args.filter
    fractions = options.keep_fraction_by_type or {}
    types = tuple(sorted(fractions))
    job = count_job(build, types)
    yield job, single(build.shards)
    histogram, *of_types = add_up(map(job.path, build.shards), num_types=len(types))
    default = options.min_similarity
    if default is None and histogram.counts.any():
        default = histogram.threshold_for(options.keep_fraction)
    by_type = {
        kind: found.threshold_for(fractions[kind])
        for kind, found in zip(types, of_types, strict=True)
        if found.counts.any()
    }
    return Thresholds(default, by_type | (options.min_similarity_by_type or {})), histogram


def count_job(build: Build, types: tuple[str, ...]) -> Job:
    """Counts the similarities of all entities of a shard, then of those of each type."""
    disambiguation = build.args.link.disambiguation
    count = partial(
        count_similarities,
        scored=build.stages_dir / "score_entities",
        knowledge_base=build.knowledge_base,
        disambiguation=disambiguation,
        types=types,
    )
    return Job(
        "choose_thresholds",
        build.stages_dir / "choose_thresholds",
        hash_settings([build.config_hash("score_entities"), disambiguation, types]),
        partial(one_by_one, count),
        suffix=".npz",
        is_short=True,
    )


def count_similarities(
    shard: Shard, path: Path, *, scored: Path, knowledge_base: str, disambiguation: str, types: tuple[str, ...]
) -> None:
    """Writes the histograms of a shard, and how often an image is nearer to its own entity than to another's."""
    histograms = [SimilarityHistogram() for _ in (None, *types)]
    trials = wins = 0
    for batch in read_scored(shard, scored=scored):
        chosen = [
            entity
            for candidates in batch["candidates"]
            for entity in choose_entities(candidates, disambiguation=disambiguation)
        ]
        controls = zip(batch["candidates"], batch["control"], strict=True)
        won = [found[0]["similarity"] > control for found, control in controls if control is not None]
        trials, wins = trials + len(won), wins + sum(won)
        histograms[0].add([entity["similarity"] for entity in chosen])
        types_of = [entity_types(knowledge_base, entity["entity_id"]) if types else () for entity in chosen]
        for kind, histogram in zip(types, histograms[1:], strict=True):
            pairs = zip(chosen, types_of, strict=True)
            histogram.add([entity["similarity"] for entity, found in pairs if kind in found])
    counts = np.stack([histogram.counts for histogram in histograms])
    row, position = np.nonzero(counts)
    save_arrays(path, row=row, position=position, counts=counts[row, position], trials=trials, wins=wins)


def add_up(paths: Iterable[Path], *, num_types: int) -> list[SimilarityHistogram]:
    """What all shards counted: all entities, then the entities of each type."""
    total = np.zeros((1 + num_types, HISTOGRAM_BINS), dtype=np.int64)
    histograms = [SimilarityHistogram(counts) for counts in total]
    for path in paths:
        with np.load(path) as found:
            total[found["row"], found["position"]] += found["counts"]
            histograms[0].trials += int(found["trials"])
            histograms[0].wins += int(found["wins"])
    return histograms
