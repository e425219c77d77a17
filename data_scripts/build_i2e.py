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
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.build_arguments import (
    STAGES,
    BuildArguments,
    FilterArguments,
    LabelArguments,
    LinkArguments,
    RunArguments,
    SourceArguments,
)
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.build_phases import Build, filter_phase, link_phase, score_groups, score_phase
from data_scripts.choose_thresholds import choose_thresholds
from data_scripts.count_aliases import count_aliases, write_text_statistics
from data_scripts.dataset_card import BuildResult, write_card
from data_scripts.embed_entities import embed_entities
from data_scripts.engines import Engine, run_phase, run_tasks
from data_scripts.files import hash_settings, try_read_json, write_json, write_whole
from data_scripts.knowledge_base import open_knowledge_base
from data_scripts.label_entities import LabelOptions, LabelSummary, label_entities
from data_scripts.plan_shards import SourceOptions, keep_column_types, plan_shards
from data_scripts.publish_shards import PublishJob, plan_outputs, write_entities
from data_scripts.push_to_hub import push_to_hub
from data_scripts.read_pairs import read_pairs
from data_scripts.report import write_report
from data_scripts.run_shards import Group, Phase, log_stages, single_shards, sum_manifests, wait_for_shards
from modeling_mofi.recipe_parser import parse_recipe


logger = logging.getLogger(__name__)


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
    build = plan_build(args)
    check_directory(build)
    write_statistics(build)
    options = {"num_processes": args.run.num_processes, "num_threads": args.run.num_threads}
    with Engine(args.run.engine, **options, preload=["data_scripts.build_phases"]) as engine:
        return run_build(build, engine=engine)


def run_build(build: Build, *, engine: Engine) -> BuildResult | None:
    """Runs the phases one after another."""
    linking = link_phase(build)
    if not run_share(linking, single_shards(build.shards), build, engine=engine):
        return None
    embed_found_entities(build, linking)
    scoring = score_phase(build)
    if not run_share(scoring, score_groups(build), build, engine=engine):
        return None
    if build.args.run.shard_index not in (None, 0):
        logger.info("all shards are scored; task 0 of the array writes the data set")
        return None
    return finish_build(build, linking, scoring, engine=engine)


def plan_build(args: BuildArguments) -> Build:
    """Cuts the source into shards and opens or builds the knowledge base."""
    source = args.source
    options = SourceOptions(
        rows_per_shard=source.rows_per_shard,
        config_name=source.hub_config,
        split=source.hub_split,
        revision=source.hub_revision,
        streaming=source.streaming,
        other_columns=tuple(name for name in (source.image_id_column, *source.keep_columns) if name is not None),
    )
    shards = plan_shards(
        source.pairs, image_column=source.image_column, alt_text_column=source.alt_text_column, options=options
    )
    # Asking for the types also checks, before any work, that the columns are there.
    keep_column_types(shards[0], [source.image_column, source.alt_text_column])
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
            shutil.rmtree(build.stages_dir / stage, ignore_errors=True)
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
        for batch in read_pairs(shard, columns=build.columns):
            yield from batch["alt_text"][:left]
            left -= len(batch["alt_text"])
            if left <= 0:
                break


def run_share(phase: Phase, groups: list[Group], build: Build, *, engine: Engine) -> bool:
    """Runs this task's groups of shards of a phase; whether the shards of all tasks are then done."""
    run = build.args.run
    started = time.perf_counter()
    run_phase(phase, groups if run.shard_index is None else groups[run.shard_index :: run.num_shards], engine=engine)
    missing = wait_for_shards(phase, build.shards, timeout_seconds=run.wait_seconds)
    if missing:
        logger.info(
            "%s: %d of %d shards of other tasks are not done yet (first %d). Run this again when they are, or give "
            "--wait_seconds.",
            phase.name,
            len(missing),
            len(build.shards),
            missing[0],
        )
        return False
    log_stages(sum_manifests(phase, build.shards), seconds=time.perf_counter() - started)
    return True


def embed_found_entities(build: Build, linking: Phase) -> None:
    """Runs `embed_entities` on the candidates of the text phase, unless its result is there.

    Raises:
        ValueError: If the text phase found no entity.
    """
    marker = build.text_embeddings / "manifest.json"
    if try_read_json(marker) == build.config_hash("score_entities"):
        return
    found: set[str] = set()
    for shard in build.shards:
        column = pq.read_table(linking.data_path(shard.index), columns=["candidates"])["candidates"]
        ids = pa.compute.struct_field(pa.compute.list_flatten(column), "entity_id")
        found.update(ids.unique().to_pylist())
    if not found:
        raise ValueError(nothing_left(linking, build))
    started = time.perf_counter()
    embed_entities(
        found,
        knowledge_base=build.knowledge_base,
        filter_model=build.args.filter.filter_model,
        template=build.args.filter.entity_template,
        folder=build.text_embeddings,
    )
    write_json(marker, build.config_hash("score_entities"))
    logger.info("embed_entities: %s entities in %.1f s", f"{len(found):,}", time.perf_counter() - started)


def nothing_left(phase: Phase, build: Build) -> str:
    """Says where the rows went."""
    stages = sum_manifests(phase, build.shards)["stages"]
    lines = [
        f"{name} {counts['rows_in']:,} in, {counts['rows_out']:,} out {counts['dropped']}"
        for name, counts in stages.items()
    ]
    return f"no row is left after {phase.name}: {'; '.join(lines)}. Check columns, knowledge base, thresholds."


def finish_build(build: Build, linking: Phase, scoring: Phase, *, engine: Engine) -> BuildResult:
    """Filters, labels, writes the data set, its card and its report."""
    started = time.perf_counter()
    thresholds, histogram = choose_thresholds(build, engine=engine)
    if histogram.counts.sum() == 0:
        raise ValueError(nothing_left(scoring, build))
    filtering = filter_phase(build, thresholds)
    run_phase(filtering, single_shards(build.shards), engine=engine)
    summary = write_labels(build, filtering)
    if summary.entities.num_rows == 0:
        raise ValueError(
            f"no entity has {build.args.label.min_images_per_entity} images after filter_entities (threshold "
            f"{thresholds.default:.4f}). Lower min_images_per_entity or the threshold, or give more pairs."
        )
    publish(build, summary, engine=engine)
    totals = {"stages": {}, "notes": {}}
    for phase in (linking, scoring, filtering):
        found = sum_manifests(phase, build.shards)
        totals["stages"] |= found["stages"]
        totals["notes"] |= found["notes"]
    rows_in = totals["stages"]["filter_entities"]["rows_out"]
    totals["stages"]["label_entities"] = {
        "rows_in": rows_in,
        "rows_out": sum(summary.rows.values()),
        "dropped": summary.dropped,
    }
    last = {name: totals["stages"][name] for name in ("filter_entities", "label_entities")}
    log_stages({"stages": last, "notes": {}}, seconds=time.perf_counter() - started)
    result = BuildResult(build, summary, totals, thresholds, histogram)
    write_card(result)
    write_report(result)
    logger.info(
        "%s images, %s entities in %s; look at %s",
        f"{sum(summary.rows.values()):,}",
        f"{summary.entities.num_rows:,}",
        build.output_dir,
        build.output_dir / "report.html",
    )
    run = build.args.run
    if run.push_to_hub is not None:
        push_to_hub(build.output_dir, run.push_to_hub, private=run.private, build_id=build.build_id)
    return result


def write_labels(build: Build, filtering: Phase) -> LabelSummary:
    """Runs the reduction over the filtered shards."""
    folder = build.stages_dir / "label_entities"
    label = build.args.label

    def read_tables() -> Iterator[pa.Table]:
        return (pq.read_table(filtering.data_path(shard.index)) for shard in build.shards)

    def write(position: int, table: pa.Table) -> None:
        with write_whole(folder / f"{build.shards[position].index:06d}.parquet") as temporary:
            pq.write_table(table, temporary)

    options = LabelOptions(
        min_images=label.min_images_per_entity,
        max_images=label.max_images_per_entity,
        validation_fraction=label.validation_fraction,
        seed=label.seed,
    )
    return label_entities(read_tables, kb=open_knowledge_base(build.knowledge_base), options=options, write=write)


def publish(build: Build, summary: LabelSummary, *, engine: Engine) -> None:
    """Writes the published files and takes away those of an earlier labelling."""
    labelled = build.stages_dir / "label_entities"
    indices = [shard.index for shard in build.shards]
    files = plan_outputs(labelled, indices, rows_per_file=build.args.label.rows_per_file)
    data = build.output_dir / "data"
    data.mkdir(parents=True, exist_ok=True)
    names = {file.name for file in files}
    # Files of an earlier labelling, and what a build that was killed left half written.
    for path in [path for path in data.iterdir() if path.name not in names] + [*build.stages_dir.rglob("*.tmp.*")]:
        path.unlink()
    job = PublishJob(
        scored=build.stages_dir / "score_entities",
        labelled=labelled,
        shard_indices=tuple(indices),
        data=data,
        manifests=build.stages_dir / "publish_shards",
        knowledge_base=build.knowledge_base,
        keep_columns=build.keep_columns,
        build_id=build.build_id,
    )
    run_tasks(job, files, engine=engine, name="publish_shards")
    write_entities(summary.entities, build.output_dir / "entities.parquet", build_id=build.build_id)


if __name__ == "__main__":
    main()
