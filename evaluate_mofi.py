"""Evaluates image encoders, MOFI or any other, on retrieval and recognition.

    python evaluate_mofi.py --model runs/sample/mofi pixels --task retrieval --data sample_data/pairs/test.parquet \
        --label_column gold_entity_id --output results.json
    python evaluate_mofi.py configs/eval_paper.yaml --model runs/sample/mofi openai/clip-vit-base-patch16
"""

import dataclasses
import logging
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from huggingface_hub.constants import HF_HOME

from evaluation.benchmark import Benchmark, Embedder, Scores, read_benchmarks
from evaluation.draw_results import FoundImages, draw_bars, draw_curves
from evaluation.encoders import Pooling, Precision, Preprocessing, UnfitModelError, load_encoder
from evaluation.entity_recognition import evaluate_entity_recognition
from evaluation.gpr1200 import evaluate_gpr1200
from evaluation.image_text_retrieval import evaluate_image_text_retrieval
from evaluation.knn import evaluate_knn
from evaluation.labeled_images import LabeledImages, open_images, share_labels
from evaluation.linear_probe import evaluate_linear_probe
from evaluation.listed_retrieval import evaluate_listed_retrieval
from evaluation.near_duplicates import without_near_duplicates
from evaluation.results import Result, markdown_tables, mean_with_interval, suite_results, write_results
from evaluation.retrieval import evaluate_retrieval
from evaluation.zero_shot import evaluate_zero_shot
from modeling_mofi.recipe_parser import json_mapping, parse_recipe
from modeling_mofi.user_errors import run_command


logger = logging.getLogger(__name__)

TASKS = {
    "retrieval": evaluate_retrieval,
    "listed_retrieval": evaluate_listed_retrieval,
    "gpr1200": evaluate_gpr1200,
    "knn": evaluate_knn,
    "zero_shot": evaluate_zero_shot,
    "linear_probe": evaluate_linear_probe,
    "image_text_retrieval": evaluate_image_text_retrieval,
    "entity_recognition": evaluate_entity_recognition,
}


@dataclass
class EvaluationArguments:
    """Which models, how they run and where the results go; the data are in `Benchmark`."""

    model: list[str] = field(
        default_factory=list, metadata={"help": "[NAME=]folder or id[@revision]; 'pixels' is a floor."}
    )
    suite: str | None = field(
        default=None, metadata={"help": "'retrieval': public sets of many domains, with one mean over them."}
    )
    training_data: str | None = field(
        default=None, metadata={"help": "Images whose near-duplicates are left out of every benchmark, and counted."}
    )
    training_split: str | None = field(default=None, metadata={"help": "Its split; by default 'train' of several."})
    benchmarks: dict | str | None = field(
        default=None, metadata={"help": "In a recipe: keys of a benchmark, by its name."}
    )
    published: dict | str | None = field(default=None, metadata={"help": "In a recipe: numbers to show beside ours."})
    output: str | None = field(default=None, metadata={"help": "JSON; Markdown and model-index are put beside it."})
    figure: str | None = field(default=None, metadata={"help": "PNG of queries and what each model finds."})
    figures: str | None = field(default=None, metadata={"help": "Folder for all figures."})
    figure_queries: int = field(default=8, metadata={"help": "Rows of the figure."})
    preprocessing: Preprocessing = field(
        default="model", metadata={"help": "The model's own, or the transform of Apple's release."}
    )
    pooling: Pooling = field(default="auto", metadata={"help": "For encoders without a projection."})
    dtype: Precision = field(default="auto", metadata={"help": "'auto' is bfloat16 on a GPU, float32 on a CPU."})
    device: str = field(default="auto", metadata={"help": "'auto' takes a GPU if there is one."})
    batch_size: int = 64
    num_workers: int | None = field(default=None, metadata={"help": "Processes that decode and prepare images."})
    cache_dir: str = field(default=f"{HF_HOME}/mofi_embeddings", metadata={"help": "Embeddings are kept here."})
    bootstrap: int = field(default=1000, metadata={"help": "Resamples behind the intervals; 0 leaves them out."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap and of the queries on the figure."})

    def __post_init__(self) -> None:
        self.benchmarks = json_mapping("benchmarks", self.benchmarks)
        self.published = json_mapping("published", self.published)


def main(argv: list[str] | None = None) -> list[Result]:
    """Evaluates, prints the table and writes the files that were asked for."""
    args, default = parse_recipe(
        (EvaluationArguments, Benchmark),
        with_suite(list(sys.argv[1:] if argv is None else argv)),
        description="Evaluates image encoders on retrieval and recognition.",
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    benchmarks = read_benchmarks(args.benchmarks, default)
    check_arguments(args, benchmarks)
    results = evaluate_models(args, benchmarks)
    if args.suite:
        results += suite_results(args.suite, results, num_benchmarks=len(benchmarks))
        save_results(args, benchmarks, results)
    print(markdown_tables(results, args.published))
    return results


def with_suite(argv: list[str]) -> list[str]:
    """Puts the recipe of `--suite NAME` before all others."""
    name = next((value for flag, value in pairwise(argv) if flag == "--suite"), None)
    return argv if name is None else [f"suite_{name}.yaml", *argv]


def check_arguments(args: EvaluationArguments, benchmarks: dict[str, Benchmark]) -> None:
    """Refuses what is missing or unknown before anything is loaded."""
    if not args.model:
        raise ValueError("--model is missing; give one or several folders or Hub ids.")
    for name, benchmark in benchmarks.items():
        if not benchmark.data:
            raise ValueError(f"{name}: --data is missing; give a Parquet file, a folder or a dataset id.")
        if benchmark.task == "image_text_retrieval" and not benchmark.text_column:
            raise ValueError(f"{name}: --text_column is missing; it names the column with the texts of an image.")


def evaluate_models(args: EvaluationArguments, benchmarks: dict[str, Benchmark]) -> list[Result]:
    """Runs every benchmark for each model; what is finished is written at once, figures when all is done."""
    opened = {name: (benchmark.open(), benchmark.open(is_gallery=True)) for name, benchmark in benchmarks.items()}
    for query, gallery in opened.values():
        share_labels(query, gallery)
    near_duplicates = leave_out_near_duplicates(args, opened)
    results: list[Result] = []
    found: dict[str, dict[str, Scores]] = {name: {} for name in benchmarks}
    unfit: list[str] = []
    for model, path in model_names(args.model).items():
        encoder = load_encoder(
            path,
            preprocessing=args.preprocessing,
            pooling=args.pooling,
            dtype=args.dtype,
            device=args.device,
        )
        embedder = Embedder(encoder, Path(args.cache_dir).expanduser(), args.batch_size, args.num_workers)
        for name, benchmark in benchmarks.items():
            query, gallery = opened[name]
            try:
                scores = TASKS[benchmark.task](benchmark, embedder, query=query, gallery=gallery)
            except UnfitModelError as error:
                logger.warning("%s leaves out %s: %s", name, model, error)
                unfit.append(str(error))
                continue
            scores.counts |= near_duplicates.get(name, {})
            results.append(summarize(args, name, benchmark, model, query, scores))
            save_results(args, benchmarks, results)
            if args.figure or args.figures:
                found[name][model] = scores
    if not results:
        raise ValueError(f"No model has what the tasks need. {' '.join(dict.fromkeys(unfit))}")
    draw_figures(args, benchmarks, opened, found, results)
    return results


def leave_out_near_duplicates(
    args: EvaluationArguments, opened: dict[str, tuple[LabeledImages, LabeledImages | None]]
) -> dict[str, dict[str, int]]:
    """Replaces what is opened by what is no near-duplicate of the training data; the counts of the others by name."""
    if args.training_data is None:
        return {}
    split = args.training_split or "train"
    training = open_images(args.training_data, split=split)
    cache_dir, counts = Path(args.cache_dir).expanduser(), {}
    for name, pair in opened.items():
        left = [images and without_near_duplicates(images, training, cache_dir=cache_dir) for images in pair]
        opened[name] = tuple(found and found[0] for found in left)
        counts[name] = {"near_duplicates_left_out": sum(found[1] for found in left if found)}
    return counts


def save_results(args: EvaluationArguments, benchmarks: dict[str, Benchmark], results: list[Result]) -> None:
    """Writes the results so far, if an output was asked for."""
    if args.output:
        settings = {**dataclasses.asdict(args), "benchmarks": sorted(benchmarks)}
        settings.pop("published")
        write_results(Path(args.output), results, settings=settings, published=args.published)


def draw_figures(
    args: EvaluationArguments,
    benchmarks: dict[str, Benchmark],
    opened: dict[str, tuple[LabeledImages, LabeledImages | None]],
    found: dict[str, dict[str, Scores]],
    results: list[Result],
) -> None:
    """Draws the contact sheet of the first benchmark with labels, and all figures, where they were asked for."""
    if args.figures and any(result.curves for result in results):
        draw_curves(Path(args.figures), results)
    drawable = [name for name in benchmarks if found[name] and opened[name][0].labels is not None]
    if args.figure and drawable:
        name = drawable[0]
        sheet = FoundImages(benchmarks[name], *opened[name], found[name])
        sheet.draw_random(Path(args.figure), count=args.figure_queries, seed=args.seed)
    if args.figures:
        for name in drawable:
            sheet = FoundImages(benchmarks[name], *opened[name], found[name])
            sheet.draw_all(Path(args.figures), name, count=args.figure_queries, seed=args.seed)
        draw_bars(Path(args.figures) / "bars.png", results)


def model_names(models: list[str]) -> dict[str, str]:
    """Folder or id of each model by the name to show: `NAME` of `NAME=path`, else the last part of the path."""
    is_named = ["=" in model and not Path(model).exists() for model in models]
    paths = [model.partition("=")[2] if named else model for model, named in zip(models, is_named, strict=True)]
    short = [
        model.partition("=")[0] if named else Path(model).name for model, named in zip(models, is_named, strict=True)
    ]
    names = short if len(set(short)) == len(short) else models
    if len(set(names)) < len(names):
        raise ValueError(f"--model names a model twice: {', '.join(models)}.")
    return dict(zip(names, paths, strict=True))


def summarize(
    args: EvaluationArguments,
    name: str,
    benchmark: Benchmark,
    model: str,
    query: LabeledImages,
    scores: Scores,
) -> Result:
    """Means and intervals over the queries, with the counts that belong beside them."""
    excluded = int(np.isnan(next(iter(scores.by_query.values()))).sum())
    counts = {
        "images": len(query),
        "unreadable": len(scores.query.unreadable),
        "duplicates": scores.query.num_duplicates,
        "excluded_queries": excluded,
    }
    if scores.query.num_duplicates:
        logger.warning("%s: %d images are the same file as another one", name, scores.query.num_duplicates)
    if excluded:
        logger.warning("%s: %d queries have nothing relevant to find and do not count", name, excluded)
    return Result(
        benchmark=name,
        task=benchmark.task,
        data=benchmark.data,
        model=model,
        values={
            metric: mean_with_interval(values, num_resamples=args.bootstrap, seed=args.seed)
            for metric, values in scores.by_query.items()
        },
        counts={**counts, **scores.counts},
        unreadable=scores.query.unreadable,
        settings={**dataclasses.asdict(benchmark), **scores.chosen},
        curves=scores.curves,
    )


if __name__ == "__main__":
    run_command(main, extra="evaluate")
