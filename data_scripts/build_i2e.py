"""Builds an entity-labelled image dataset (I2E) from image and alt-text pairs.

    python -m data_scripts.build_i2e configs/build_sample.yaml --output_dir runs/sample/i2e

Two phases over shards, then a reduction:

    text     read_pairs -> recognize_mentions -> link_entities            no image is opened
    images   decode_images -> score_entities                              a CLIP-like model; similarities are stored
    labels   filter_entities -> label_entities -> data/*.parquet, entities.parquet, README.md, report.html

Interrupted, it resumes. With other settings in the same folder it refuses, except that a change of threshold, counts
or split runs only the last line again.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_scripts.arguments import (
    STAGES,
    BuildArguments,
    FilterArguments,
    LabelArguments,
    LinkArguments,
    RunArguments,
    SourceArguments,
)
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.engine.engines import Engine, run_job, run_steps
from data_scripts.engine.files import hash_settings, remove_siblings
from data_scripts.engine.folder_lock import hold_folder
from data_scripts.engine.jobs import Group, Job, Part, Steps, one_by_one, single
from data_scripts.engine.row_counts import Totals, check_readable, log_stages, sum_manifests
from data_scripts.finish_build import finish_build
from data_scripts.images.embed_entities import embed_entities
from data_scripts.knowledge_base.hub import find_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import learn_statistics, write_text_statistics
from data_scripts.phases import Build, check_models, link_job, score_groups, score_job
from data_scripts.report.card import BuildResult
from data_scripts.sources.keep_columns import keep_column_types
from data_scripts.sources.limit import limit_shards
from data_scripts.sources.pairs import read_pairs
from data_scripts.sources.plan import plan_shards
from modeling_mofi.hub.public_text import public_setting
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.user_errors import run_command
from modeling_mofi.whole_files import try_read_json, write_json


logger = logging.getLogger(__name__)

STATISTICS = Part("statistics")
# Folders with what a stage and its preparation leave.
FOLDERS = {
    "link_entities": ("learn_statistics", "link_entities"),
    "score_entities": ("embed_entities", "score_entities"),
    "filter_entities": ("choose_thresholds", "filter_entities"),
    "label_entities": ("count_entities", "label_entities", "write_dataset"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    kinds = (SourceArguments, LinkArguments, FilterArguments, LabelArguments, RunArguments)
    args = BuildArguments(*parse_recipe(kinds, argv, description=__doc__))
    build_i2e(args)


def build_i2e(args: BuildArguments) -> BuildResult | None:
    """Builds the dataset.

    Returns:
        What was built; None if the rest is to be done by other tasks of a job array.

    Raises:
        ValueError: If a setting is wrong, or nothing is left of the data.
        FileNotFoundError: If an input does not exist.
    """
    args.check()
    options = {"num_processes": args.run.num_processes, "num_threads": args.run.num_threads}
    with Engine(args.run.engine, **options, preload=["data_scripts.phases"]) as engine:
        build = plan_build(args)
        with hold_folder(build.stages_dir, build.array):
            check_directory(build)
            # Every task needs the statistics at once and makes the same, so none waits for another's.
            run_job(statistics_job(build), single([STATISTICS]), engine=engine)
            return run_steps(build_steps(build), engine=engine, array=build.array)


def build_steps(build: Build) -> Steps[BuildResult | None]:
    """The jobs of a build, one after another."""
    totals = yield from count_rows(link_job(build), single(build.shards), build)
    yield from embed_candidates(build)
    totals.join((yield from count_rows(score_job(build), score_groups(build), build)))
    return (yield from finish_build(build, totals))


def plan_build(args: BuildArguments) -> Build:
    """Cuts the source into shards and opens or builds the knowledge base."""
    source = args.source
    shards = limit_shards(plan_shards(source), source)
    keep_columns = keep_column_types(shards, source.keep_columns)
    check_models(args)
    folder = args.link.knowledge_base
    if Path(folder).is_file():
        if args.run.num_shards > 1:
            raise ValueError(
                f"knowledge_base {folder} is a file, and every task of the array would build it. Build it once with "
                "`python -m data_scripts.build_knowledge_base` and give its folder."
            )
        built = Path(args.run.output_dir) / "knowledge_base"
        folder = str(
            build_knowledge_base(
                KnowledgeBaseArguments(
                    source=folder, output_dir=str(built), language=args.link.language, exclusions=None
                )
            )
        )
    folder, name = find_knowledge_base(folder)
    # With its commit: the recipe in the card builds from the same one again.
    args = replace(args, link=replace(args.link, knowledge_base=args.link.knowledge_base if folder == name else name))
    logger.info(
        "plan: %s in %d shards, %s entities", source.pairs, len(shards), f"{len(open_knowledge_base(folder)):,}"
    )
    return Build(args, tuple(shards), folder, keep_columns)


def check_directory(build: Build) -> None:
    """Refuses a folder that holds another build, unless the settings say from where to do it again.

    Raises:
        ValueError: With the settings that differ.
    """
    path = build.stages_dir / "settings.json"
    restart = build.args.run.restart_from
    if restart is not None:
        for stage in STAGES[STAGES.index(restart) :]:
            for folder in FOLDERS[stage]:
                shutil.rmtree(build.stages_dir / folder, ignore_errors=True)
    found, settings = try_read_json(path), public_setting(build.settings, with_paths=True)
    phases = ("link_entities", "score_entities")
    redone = phases[phases.index(restart) :] if restart in phases else ()
    for phase in phases if found is not None else ():
        changed = sorted(
            name
            for name in found[phase].keys() | settings[phase].keys()
            if found[phase].get(name) != settings[phase].get(name)
        )
        if changed and phase not in redone and is_begun(build, phase):
            raise ValueError(
                f"{build.output_dir} was built with other settings: {', '.join(changed)} changed. Choose another "
                f"--output_dir, or redo what depends on them with --restart_from {phase}."
            )
    if found is not None and found["label_entities"] != settings["label_entities"]:
        logger.info("threshold, counts or split changed: labelling again from the stored similarities")
    write_json(path, settings | public_setting({"knowledge_base": build.args.link.knowledge_base}, with_paths=True))


def is_begun(build: Build, phase: str) -> bool:
    """Whether anything of a phase is committed; settings that failed before that may be corrected."""
    return any((build.stages_dir / phase).glob("*.json"))


def statistics_job(build: Build) -> Job:
    """Learns from the first texts of evenly spaced shards what they say beyond the knowledge base."""
    work = partial(one_by_one, partial(write_statistics, build))
    settings_hash = hash_settings([build.config_hash("link_entities"), len(build.shards)])
    return Job("learn_statistics", build.statistics.parent, settings_hash, work, suffix=build.statistics.suffix)


def write_statistics(build: Build, _: Part, path: Path) -> None:
    """Writes the statistics of the texts."""
    link = build.args.link
    statistics = learn_statistics(
        sample_texts(build, limit=link.num_statistics_texts),
        knowledge_base=build.knowledge_base,
        language=link.language,
        boilerplate=link.boilerplate,
        not_boilerplate=link.not_boilerplate,
    )
    write_text_statistics(statistics, path)


def sample_texts(build: Build, *, limit: int) -> Iterator[str]:
    """Texts from the beginnings of evenly spaced shards; the same for every process."""
    num_shards = min(len(build.shards), 64)
    share = -(-limit // num_shards)
    for position in range(num_shards):
        shard = build.shards[position * len(build.shards) // num_shards]
        left = share
        for batch in read_pairs(shard, source=build.args.source):
            yield from batch["alt_text"][:left]
            left -= len(batch["alt_text"])
            if left <= 0:
                break


def count_rows(job: Job, groups: Sequence[Group], build: Build) -> Steps[Totals]:
    """Runs a phase, and says what became of its rows.

    Raises:
        ValueError: If no row is left, or nearly none could be read; in every task of an array, so that none waits for
            what will never come.
    """
    started = time.perf_counter()
    yield job, groups
    totals = sum_manifests(job, build.shards)
    log_stages(totals, seconds=time.perf_counter() - started)
    check_readable(job, totals)
    if totals.stages[job.name]["rows_out"] == 0:
        raise ValueError(nothing_left(job, totals))
    return totals


def nothing_left(job: Job, totals: Totals) -> str:
    """Says where the rows went."""
    lines = [
        f"{name} {counts['rows_in']:,} in, {counts['rows_out']:,} out {dict(counts['dropped'])}"
        for name, counts in totals.stages.items()
    ]
    return f"no row is left after {job.name}: {'; '.join(lines)}. Check columns, knowledge base, thresholds."


def embed_candidates(build: Build) -> Steps[None]:
    """Runs `embed_entities` on the candidates of the text phase."""
    started = time.perf_counter()
    if build.array.is_first:
        remove_siblings(build.text_embeddings)
    num_entities = yield from embed_entities(
        [build.stage_file("link_entities", shard) for shard in build.shards],
        build.text_embeddings,
        knowledge_base=build.knowledge_base,
        filter_model=build.args.filter.filter_model,
        template=build.args.filter.entity_template,
    )
    logger.info("embed_entities: %s entities in %.1f s", f"{num_entities:,}", time.perf_counter() - started)


if __name__ == "__main__":
    run_command(main, extra="data")
