"""The last line of a build: from stored similarities to the published dataset, its card and its report."""

import logging
import time
from functools import partial

from data_scripts.choose_thresholds import choose_thresholds
from data_scripts.engine.files import remove_siblings
from data_scripts.engine.jobs import Job, Steps, one_by_one, single
from data_scripts.engine.row_counts import Totals, log_stages, sum_manifests
from data_scripts.images.filter_entities import Thresholds
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.labels.label_shards import LabelFolders, LabelSummary, label_shards
from data_scripts.labels.write_dataset import DatasetWriter, plan_outputs, write_entities
from data_scripts.phases import Build, filter_job
from data_scripts.report.card import BuildResult, write_card
from data_scripts.report.page import write_report
from data_scripts.report.push import push_to_hub
from modeling_mofi.whole_files import remove_temporary_files


logger = logging.getLogger(__name__)


def finish_build(build: Build, totals: Totals) -> Steps[BuildResult | None]:
    """Filters, labels, writes the dataset; the first task of an array also writes its card and its report.

    Args:
        totals: Counts of the stages so far; gets those of the last ones.

    Returns:
        What was built; None in the other tasks of an array.

    Raises:
        ValueError: If nothing is left of the data.
    """
    started = time.perf_counter()
    thresholds, histogram = yield from choose_thresholds(build)
    filtering = filter_job(build, thresholds)
    yield filtering, single(build.shards)
    summary = yield from write_labels(build, thresholds)
    yield from write_dataset(build, summary)
    if not build.array.is_first:
        logger.info("the data are written; task 0 of the array writes entities, card and report")
        return None
    write_entities(summary.entities, build.output_dir / "entities.parquet", build_id=build.build_id)
    remove_temporary_files(build.output_dir)
    last = sum_manifests(filtering, build.shards)
    last.join(summary.totals)
    log_stages(last, seconds=time.perf_counter() - started)
    totals.join(last)
    result = BuildResult(build, summary, totals, thresholds, histogram)
    write_card(result)
    write_report(result)
    found = f"{sum(summary.rows.values()):,} images, {len(summary.entities):,} entities"
    logger.info("%s in %s; look at %s", found, build.output_dir, build.output_dir / "report.html")
    if build.args.run.push_to_hub is not None:
        repo_id = build.args.run.push_to_hub
        push_to_hub(build.output_dir, repo_id, private=build.args.run.private, build_id=build.build_id)
    return result


def write_labels(build: Build, thresholds: Thresholds) -> Steps[LabelSummary]:
    """Runs `label_entities`.

    Raises:
        ValueError: If no entity has enough images.
    """
    stages, counted = build.stages_dir, build.stages_dir / "count_entities" / build.build_id
    remove_siblings(counted)
    summary = yield from label_shards(
        build.shards,
        folders=LabelFolders(stages / "filter_entities", counted, stages / "label_entities"),
        options=build.args.label,
        kb=open_knowledge_base(build.knowledge_base),
    )
    if summary.entities.num_rows == 0:
        raise ValueError(
            f"no entity has {build.args.label.min_images_per_entity} images after filter_entities (threshold "
            f"{thresholds.default:.4f}). Lower min_images_per_entity or the threshold, or give more pairs."
        )
    return summary


def write_dataset(build: Build, summary: LabelSummary) -> Steps[None]:
    """Writes the published files, in the place of those of an earlier labelling."""
    stages = build.stages_dir
    files = plan_outputs(summary.rows_by_shard, rows_per_file=build.args.label.rows_per_file)
    writer = DatasetWriter(
        scored=stages / "score_entities",
        labelled=stages / "label_entities",
        knowledge_base=build.knowledge_base,
        keep_columns=build.keep_columns,
        build_id=build.build_id,
    )
    job = Job(
        "write_dataset",
        build.output_dir / "data",
        build.build_id,
        partial(one_by_one, writer.write),
        manifests=stages / "write_dataset",
        is_short=True,
    )
    paths = {job.path(file) for file in files}
    for path in job.folder.glob("*.parquet"):
        if path not in paths:
            path.unlink(missing_ok=True)
    yield job, single(files)
