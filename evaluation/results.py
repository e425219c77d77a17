"""Results of an evaluation: means with confidence intervals, the JSON file, Markdown tables, model-index metadata."""

import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from modeling_mofi.whole_files import write_text


LIBRARIES = ("torch", "transformers", "timm", "datasets", "evaluate", "numpy", "pillow", "scikit-learn")
TASK_TYPES = {
    "zero_shot": "zero-shot-image-classification",
    "knn": "image-classification",
    "linear_probe": "image-classification",
}

Published = dict[str, dict[str, dict[str, float]]]  # By name of the row, benchmark and metric.


@dataclass
class Value:
    """A mean over queries, with the ends of its 95% bootstrap interval (NaN where there is none)."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    num_queries: int = 0


@dataclass
class Result:
    """What one model reached on one benchmark.

    Attributes:
        benchmark: Name of the benchmark; the dataset, unless a recipe names it.
        data: The dataset.
        values: By metric.
        counts: Images, unreadable images, duplicates, queries without anything relevant.
        unreadable: Why an image could not be read, by row id.
        settings: The task's arguments, and what it chose itself.
        curves: Points of open-set curves by name, (false positive rate, rate of right names).
    """

    benchmark: str
    task: str
    data: str
    model: str
    values: dict[str, Value]
    counts: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def mean_with_interval(scores: np.ndarray, *, num_resamples: int = 1000, seed: int = 0) -> Value:
    """Mean of the scores that are not NaN, and the middle 95% of the means of resampled queries.

    Args:
        scores: Shape (num_queries,).
        num_resamples: 0 leaves the interval out.
    """
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return Value(float("nan"))
    generator = np.random.default_rng(seed)
    means = [scores[generator.integers(len(scores), size=len(scores))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975]) if means else (np.nan, np.nan)
    return Value(float(scores.mean()), float(low), float(high), len(scores))


def suite_results(name: str, results: list[Result], *, num_benchmarks: int) -> list[Result]:
    """The one number of a suite for each model that ran on all of it: the mean of each benchmark's first metric."""
    means = []
    for model in dict.fromkeys(result.model for result in results):
        firsts = [next(iter(result.values.values())).value for result in results if result.model == model]
        if len(firsts) == num_benchmarks:
            mean = Value(float(np.mean(firsts)), num_queries=num_benchmarks)
            means.append(
                Result(f"suite: {name}", "suite", name, model, {f"mean of {num_benchmarks} first metrics": mean})
            )
    return means


def write_results(path: Path, results: list[Result], *, settings: dict[str, Any], published: Published) -> None:
    """Writes `path` (JSON) and beside it the tables (`.md`) and metadata for model cards (`.model-index.json`)."""
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "settings": settings,
        "versions": {"python": platform.python_version(), **installed_versions()},
        "results": [asdict(result) for result in results],
        "published": published,
    }
    write_text(path, as_json(document))
    write_text(path.with_suffix(".md"), markdown_tables(results, published) + "\n")
    write_text(path.with_suffix(".model-index.json"), as_json({"model-index": model_index(results)}))


def as_json(value: Any) -> str:
    """Indented JSON; NaN, which parsers other than Python's reject, becomes null."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """The same value with None in place of NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}


def model_index(results: list[Result]) -> list[dict[str, Any]]:
    """The `model-index` entries of model cards, one per model."""
    entries = []
    for model in dict.fromkeys(result.model for result in results):
        found = [
            EvalResult(
                task_type=TASK_TYPES.get(result.task, "image-feature-extraction"),
                task_name=result.task,
                dataset_type=result.data,
                dataset_name=result.benchmark,
                metric_type=metric,
                metric_value=round(value.value, 6),
            )
            for result in results
            if result.model == model
            for metric, value in result.values.items()
            if not np.isnan(value.value)
        ]
        entries += eval_results_to_model_index(model, found)
    return entries


def markdown_tables(results: list[Result], published: Published | None = None) -> str:
    """One table per benchmark, and one with the means over the benchmarks of a task that has several."""
    by_benchmark: dict[str, list[Result]] = {}
    by_task: dict[str, list[Result]] = {}
    for result in results:
        by_benchmark.setdefault(result.benchmark, []).append(result)
        by_task.setdefault(result.task, []).append(result)
    tables = []
    for benchmark, rows in by_benchmark.items():
        others = {row: numbers[benchmark] for row, numbers in (published or {}).items() if benchmark in numbers}
        tables.append(benchmark_table(benchmark, rows, others))
    for task, rows in by_task.items():
        if len({row.benchmark for row in rows}) > 1 and shared_metric(rows):
            tables.append(means_table(task, rows))
    return "\n\n".join(tables)


def benchmark_table(benchmark: str, rows: list[Result], others: dict[str, dict[str, float]]) -> str:
    """A row per model, a column per metric, our best of each column in bold, published numbers in italics below."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.values))
    lines = [f"| {benchmark} | {' | '.join(metrics)} |", f"|:--|{'--:|' * len(metrics)}"]
    best = {metric: max(row.values[metric].value for row in rows if metric in row.values) for metric in metrics}
    for row in rows:
        cells = [cell(row.values.get(metric), is_best=len(rows) > 1, best=best[metric]) for metric in metrics]
        lines.append(f"| {row.model} | {' | '.join(cells)} |")
    for name, numbers in others.items():
        lines.append(f"| *{name}* | {' | '.join(str(numbers.get(metric, '')) for metric in metrics)} |")
    return "\n".join(lines)


def means_table(task: str, rows: list[Result]) -> str:
    """The mean over a task's benchmarks of the first metric they share, for models that ran on all of them."""
    benchmarks = {row.benchmark for row in rows}
    metric = shared_metric(rows)
    lines = [f"| {task} | {metric}, mean of {len(benchmarks)} benchmarks |", "|:--|--:|"]
    for model in dict.fromkeys(row.model for row in rows):
        values = [row.values[metric].value for row in rows if row.model == model]
        if len(values) == len(benchmarks):
            lines.append(f"| {model} | {np.mean(values):.4f} |")
    return "\n".join(lines)


def shared_metric(results: list[Result]) -> str | None:
    """The first metric that all of the results have; models are compared on the same one only."""
    return next((metric for metric in results[0].values if all(metric in r.values for r in results)), None)


def cell(value: Value | None, *, is_best: bool, best: float) -> str:
    """`0.8341 ± 0.0041`: the mean and half the width of its interval."""
    if value is None or np.isnan(value.value):
        return ""
    text = f"{value.value:.4f}"
    text = f"**{text}**" if is_best and value.value == best else text
    return text if np.isnan(value.low) else f"{text} ± {(value.high - value.low) / 2:.4f}"
