"""The last line of a build: from stored similarities to the published data set, its card and its report."""

import logging
import time
from functools import partial

from data_scripts.choose_thresholds import choose_thresholds
from data_scripts.engine.engines import Engine, run_job, run_phase
from data_scripts.engine.files import remove_siblings
from data_scripts.engine.job_array import JobArray, OthersAtWork
from data_scripts.engine.shards import Phase, is_done, log_stages, single_shards, sum_manifests
from data_scripts.images.filter_entities import Thresholds
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.labels.label_entities import LabelSummary
from data_scripts.labels.label_shards import RunJob, label_shards
from data_scripts.labels.write_dataset import PublishJob, plan_outputs, write_entities
from data_scripts.phases import Build, filter_phase
from data_scripts.report.card import BuildResult, write_card
from data_scripts.report.page import write_report
from data_scripts.report.push import push_to_hub


logger = logging.getLogger(__name__)


def finish_build(build: Build, linking: Phase, scoring: Phase, *, engine: Engine) -> BuildResult:
    """Filters, labels, writes the data set; the first task of an array also writes its card and its report.

    Raises:
        ValueError: If nothing is left of the data.
        OthersAtWork: If other tasks of the array have yet to do their share, or the last steps.
    """
    array = build.array.for_short_work
    if not array.is_first and array.wait_seconds == 0:
        raise OthersAtWork("all shards are scored; task 0 of the array writes the data set")
    started = time.perf_counter()
    run: RunJob = partial(run_job, engine=engine, array=array)
    thresholds, histogram = choose_thresholds(build, run=run)
    filtering = run_filter(build, thresholds, engine=engine, array=array)
    summary = write_labels(build, filtering, thresholds, run=run)
    publish(build, summary, run=run)
    if not array.is_first:
        raise OthersAtWork("the data are written; task 0 of the array writes entities, card and report")
    write_entities(summary.entities, build.output_dir / "entities.parquet", build_id=build.build_id)
    clean_up(build)
    totals = sum_stages(build, (linking, scoring, filtering), summary)
    last = {name: totals["stages"][name] for name in ("filter_entities", "label_entities")}
    log_stages({"stages": last, "notes": {}}, seconds=time.perf_counter() - started)
    result = BuildResult(build, summary, totals, thresholds, histogram)
    write_card(result)
    write_report(result)
    announce(build, summary)
    return result


def run_filter(build: Build, thresholds: Thresholds, *, engine: Engine, array: JobArray) -> Phase:
    """Runs `filter_entities`."""
    phase = filter_phase(build, thresholds)
    run_phase(phase, array.share(single_shards(build.shards)), engine=engine)
    array.wait(partial(is_done, phase), build.shards, name=phase.name)
    return phase


def write_labels(build: Build, filtering: Phase, thresholds: Thresholds, *, run: RunJob) -> LabelSummary:
    """Runs `label_entities`.

    Raises:
        ValueError: If no entity has enough images.
    """
    label = build.args.label
    remove_siblings(build.labels)
    summary = label_shards(
        build.shards,
        filtered=filtering.folder,
        folder=build.labels,
        rows=build.stages_dir / "label_entities",
        options=label,
        kb=open_knowledge_base(build.knowledge_base),
        run=run,
    )
    if summary.entities.num_rows == 0:
        raise ValueError(
            f"no entity has {label.min_images_per_entity} images after filter_entities (threshold "
            f"{thresholds.default:.4f}). Lower min_images_per_entity or the threshold, or give more pairs."
        )
    return summary


def publish(build: Build, summary: LabelSummary, *, run: RunJob) -> None:
    """Writes the published files, in the place of those of an earlier labelling."""
    data = build.output_dir / "data"
    data.mkdir(parents=True, exist_ok=True)
    files = plan_outputs(summary.rows_by_shard, rows_per_file=build.args.label.rows_per_file)
    names = {file.name for file in files}
    for path in data.glob("*.parquet"):
        if path.name not in names:
            path.unlink(missing_ok=True)
    job = PublishJob(
        scored=build.stages_dir / "score_entities",
        labelled=build.stages_dir / "label_entities",
        data=data,
        manifests=build.stages_dir / "publish_shards",
        knowledge_base=build.knowledge_base,
        keep_columns=build.keep_columns,
        build_id=build.build_id,
    )
    run(job, files)


def clean_up(build: Build) -> None:
    """Takes away what a killed build left half written; only when no task of the array writes any more."""
    for path in [*(build.output_dir / "data").glob("*.tmp.*"), *build.stages_dir.rglob("*.tmp.*")]:
        path.unlink(missing_ok=True)


def sum_stages(build: Build, phases: tuple[Phase, ...], summary: LabelSummary) -> dict[str, dict]:
    """Rows in, out and dropped of every stage, and the notes on rows."""
    totals: dict[str, dict] = {"stages": {}, "notes": {}}
    for phase in phases:
        found = sum_manifests(phase, build.shards)
        totals["stages"] |= found["stages"]
        totals["notes"] |= found["notes"]
    totals["stages"]["label_entities"] = {
        "rows_in": totals["stages"]["filter_entities"]["rows_out"],
        "rows_out": sum(summary.rows.values()),
        "dropped": summary.dropped,
    }
    return totals


def announce(build: Build, summary: LabelSummary) -> None:
    """Says what was built and where it is, and publishes it if that is wanted."""
    num_rows, num_entities = sum(summary.rows.values()), len(summary.entities)
    folder, run = build.output_dir, build.args.run
    found = f"{num_rows:,} images, {num_entities:,} entities"
    logger.info("%s in %s; look at %s", found, folder, folder / "report.html")
    if run.push_to_hub is not None:
        push_to_hub(folder, run.push_to_hub, private=run.private, build_id=build.build_id)
