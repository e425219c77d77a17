"""Builds an entity-labelled image data set (I2E) from image and alt-text pairs.

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
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
from data_scripts.engine.engines import Engine, run_job, run_phase
from data_scripts.engine.files import hash_settings, remove_siblings
from data_scripts.engine.job_array import OthersAtWork
from data_scripts.engine.shards import Group, Phase, is_done, log_stages, single_shards, sum_manifests
from data_scripts.finish_build import finish_build
from data_scripts.images.embed_entities import EmbedBlock, embed_entities, join_blocks, write_entity_ids
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import count_aliases, write_text_statistics
from data_scripts.phases import Build, link_phase, score_groups, score_phase
from data_scripts.report.card import BuildResult
from data_scripts.sources.pairs import read_pairs
from data_scripts.sources.plan import keep_column_types, plan_shards
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.whole_files import try_read_json, write_json


logger = logging.getLogger(__name__)

# Folders with what a stage and its preparation leave.
FOLDERS = {
    "link_entities": ("count_aliases", "link_entities"),
    "score_entities": ("embed_entities", "score_entities"),
    "filter_entities": ("choose_thresholds", "filter_entities"),
    "label_entities": ("count_entities", "label_entities", "publish_shards"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    kinds = (SourceArguments, LinkArguments, FilterArguments, LabelArguments, RunArguments)
    args = BuildArguments(*parse_recipe(kinds, argv, description=__doc__))
    try:
        build_i2e(args)
    except (ValueError, FileNotFoundError, PermissionError, ConnectionError) as error:
        sys.exit(f"error: {error}")


def build_i2e(args: BuildArguments) -> BuildResult | None:
    """Builds the data set.

    Returns:
        What was built; None if other tasks of a job array still have shards to do.

    Raises:
        ValueError: If a setting is wrong, or nothing is left of the data.
        FileNotFoundError: If an input does not exist.
    """
    args.check()
    options = {"num_processes": args.run.num_processes, "num_threads": args.run.num_threads}
    with Engine(args.run.engine, **options, preload=["data_scripts.phases"]) as engine:
        build = plan_build(args)
        check_directory(build)
        write_statistics(build)
        return run_build(build, engine=engine)


def run_build(build: Build, *, engine: Engine) -> BuildResult | None:
    """Runs the phases one after another."""
    try:
        linking = link_phase(build)
        run_share(linking, single_shards(build.shards), build, engine=engine)
        embed_found_entities(build, linking, engine=engine)
        scoring = score_phase(build)
        run_share(scoring, score_groups(build), build, engine=engine)
        return finish_build(build, linking, scoring, engine=engine)
    except OthersAtWork as message:
        logger.info("%s", message)
        return None


def plan_build(args: BuildArguments) -> Build:
    """Cuts the source into shards and opens or builds the knowledge base."""
    source = args.source
    shards = plan_shards(source)
    keep_columns = keep_column_types(shards[0], source.keep_columns)
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
    found = try_read_json(path)
    phases = ("link_entities", "score_entities")
    redone = phases[phases.index(restart) :] if restart in phases else ()
    for phase in phases if found is not None else ():
        changed = sorted(
            name
            for name in found[phase].keys() | build.settings[phase].keys()
            if found[phase].get(name) != build.settings[phase].get(name)
        )
        if changed and phase not in redone:
            raise ValueError(
                f"{build.output_dir} was built with other settings: {', '.join(changed)} changed. Choose another "
                f"--output_dir, or redo what depends on them with --restart_from {phase}."
            )
    if found is not None and found["label_entities"] != build.settings["label_entities"]:
        logger.info("threshold, counts or split changed: labelling again from the stored similarities")
    write_json(path, build.settings)


def write_statistics(build: Build) -> None:
    """Runs `count_aliases` on the first texts of evenly spaced shards, unless its result is there."""
    link = build.args.link
    wanted = hash_settings([build.config_hash("link_entities"), len(build.shards)])
    marker = build.statistics.with_suffix(".json")
    if build.statistics.is_file() and try_read_json(marker) == wanted:
        return
    texts = sample_texts(build, limit=link.num_statistics_texts)
    statistics = count_aliases(
        texts, knowledge_base=build.knowledge_base, language=link.language, boilerplate=link.boilerplate
    )
    write_text_statistics(statistics, build.statistics)
    write_json(marker, wanted)


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


def run_share(phase: Phase, groups: list[Group], build: Build, *, engine: Engine) -> None:
    """Runs this task's groups of shards of a phase and waits for those of the other tasks.

    Raises:
        OthersAtWork: If some of them are late.
        ValueError: If no row is left; in every task, so that none waits for what will never come.
    """
    started = time.perf_counter()
    run_phase(phase, build.array.share(groups), engine=engine)
    build.array.wait(partial(is_done, phase), build.shards, name=phase.name)
    totals = sum_manifests(phase, build.shards)
    log_stages(totals, seconds=time.perf_counter() - started)
    if totals["stages"][phase.name]["rows_out"] == 0:
        raise ValueError(nothing_left(phase, totals))


def nothing_left(phase: Phase, totals: dict[str, Any]) -> str:
    """Says where the rows went."""
    lines = [
        f"{name} {counts['rows_in']:,} in, {counts['rows_out']:,} out {counts['dropped']}"
        for name, counts in totals["stages"].items()
    ]
    return f"no row is left after {phase.name}: {'; '.join(lines)}. Check columns, knowledge base, thresholds."


def embed_found_entities(build: Build, linking: Phase, *, engine: Engine) -> None:
    """Runs `embed_entities` on the candidates of the text phase, unless its result is there.

    Raises:
        OthersAtWork: If another task of the array embeds them.
    """
    array, folder = build.array.for_short_work, build.text_embeddings
    options = build.args.filter
    job = EmbedBlock(folder, build.knowledge_base, options.filter_model, options.entity_template)
    listed, joined = folder / "entity_ids.json", folder / "embeddings.npy"
    if joined.is_file():
        return
    started = time.perf_counter()
    if array.is_first:
        found = find_entities(build, linking)
        remove_siblings(folder)
        write_entity_ids(found, folder)
    array.wait(Path.is_file, [listed], name="the list of entities")
    embed_entities(job, run=partial(run_job, engine=engine, array=array, uses_gpu=True))
    if array.is_first:
        join_blocks(job)
        logger.info("embed_entities: %s entities in %.1f s", f"{len(found):,}", time.perf_counter() - started)
    array.wait(Path.is_file, [joined], name="the embeddings of entities")


def find_entities(build: Build, linking: Phase) -> set[str]:
    """Ids of all candidates of the text phase."""
    found: set[str] = set()
    for shard in build.shards:
        column = pq.read_table(linking.data_path(shard.index), columns=["candidates"])["candidates"]
        ids = pa.compute.struct_field(pa.compute.list_flatten(column), "entity_id")
        found.update(ids.unique().to_pylist())
    return found


if __name__ == "__main__":
    main()
