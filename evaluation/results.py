"""Results of an evaluation: means with confidence intervals, the JSON file and the Markdown table."""

import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np


LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "numpy", "pillow", "scikit-learn")


@dataclass
class Value:
    """A mean over queries, with the ends of its 95% bootstrap interval."""

    value: float
    low: float
    high: float
    num_queries: int


@dataclass
class Result:
    """What one model reached on one benchmark.

    Attributes:
        benchmark: Name of the benchmark; the data set, unless a recipe names it.
        values: By metric.
        counts: Images, unreadable images, duplicates, queries without anything relevant.
        unreadable: Why an image could not be read, by row id.
        settings: The task's arguments.
        expected: Published numbers by metric, with their source under `source`.
    """

    benchmark: str
    task: str
    model: str
    values: dict[str, Value]
    counts: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)


def mean_with_interval(scores: np.ndarray, *, num_resamples: int = 1000, seed: int = 0) -> Value:
    """Mean of the scores that are not NaN, and the middle 95% of the means of resampled queries.

    Args:
        scores: Shape (num_queries,).
        num_resamples: 0 leaves the interval out (NaN).
    """
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return Value(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    means = [scores[generator.integers(len(scores), size=len(scores))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975]) if means else (np.nan, np.nan)
    return Value(float(scores.mean()), float(low), float(high), len(scores))


def write_json(path: Path, results: list[Result], *, settings: dict[str, Any]) -> None:
    """Writes all results with what is needed to repeat them; NaN becomes null."""
    document = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "settings": settings,
        "versions": {"python": platform.python_version(), **installed_versions()},
        "results": [asdict(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_nan(document), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}


def without_nan(value: Any) -> Any:
    """JSON has no NaN; other readers than Python's refuse it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def markdown_table(results: list[Result]) -> str:
    """One table per benchmark: a row per model, a column per metric, the best of each column in bold."""
    tables = []
    for benchmark in dict.fromkeys(result.benchmark for result in results):
        rows = [result for result in results if result.benchmark == benchmark]
        metrics = list(dict.fromkeys(metric for row in rows for metric in row.values))
        lines = [f"| {benchmark} | {' | '.join(metrics)} |", f"|:--|{'--:|' * len(metrics)}"]
        best = {metric: max(row.values[metric].value for row in rows if metric in row.values) for metric in metrics}
        for row in rows:
            cells = [cell(row.values.get(metric), is_best=len(rows) > 1, best=best[metric]) for metric in metrics]
            lines.append(f"| {row.model} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def cell(value: Value | None, *, is_best: bool, best: float) -> str:
    """`0.8341 ± 0.0041`: the mean and half the width of its interval."""
    if value is None or np.isnan(value.value):
        return ""
    text = f"{value.value:.4f}"
    text = f"**{text}**" if is_best and value.value == best else text
    return text if np.isnan(value.low) else f"{text} ± {(value.high - value.low) / 2:.4f}"
