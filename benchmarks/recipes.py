"""Compares MOFI's recipes on the sample at equal architecture, initialisation, augmentation and number of seen images.

    python -m benchmarks.recipes --recipes clip multi-task --seeds 0 1 2

For each recipe and seed it trains, then evaluates retrieval of unseen entities (test) and of held-out images
(validation). To benchmarks/results/ it writes a table of means and spreads, a JSON of every run, and a figure of how
the first seed's checkpoints grew. The I2E data set is the one that `make demo` builds; every seed of every recipe
trains on the same rows of it. Interrupted, it goes on where it was.
"""

import io
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

from metrics.retrieval_map.retrieval_map import average_precision
from modeling_mofi.recipe_parser import parse_recipe


ROOT = Path(__file__).parent.parent
RECIPE = "configs/train_sample.yaml"
VARIANTS = {
    "clip": ["configs/train_sample_clip.yaml"],
    "supervised": ["--recipe=supervised"],
    "contrastive": ["--recipe=contrastive"],
    "multi-task": ["--recipe=multi-task"],
}


@dataclass
class RecipesArguments:
    """What to compare, and where to write it."""

    recipes: list[str] = field(default_factory=lambda: list(VARIANTS))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    max_steps: int | None = field(default=None, metadata={"help": "Null for the recipe's own number."})
    num_checkpoints: int = field(default=8, metadata={"help": "Points of the figure, from the first seed's run."})
    num_parallel: int = field(default=1, metadata={"help": "Runs at a time."})
    output_dir: str = "runs/recipes"
    result: str = "benchmarks/results/recipes"


def main() -> None:
    (args,) = parse_recipe(RecipesArguments, description="Compares MOFI's recipes on the sample.")
    unknown = set(args.recipes) - set(VARIANTS)
    if unknown:
        raise ValueError(f"Unknown recipes {', '.join(sorted(unknown))}; known are {', '.join(VARIANTS)}.")
    variants = [(recipe, seed) for seed in args.seeds for recipe in args.recipes]
    with ThreadPoolExecutor(args.num_parallel) as threads:
        seconds = list(threads.map(lambda variant: train(args, *variant), variants))
    scores = evaluate(args)
    curves = evaluate_checkpoints(args)
    centered = centered_pixels()
    table = markdown_table(args, scores)
    document = {
        **circumstances(),
        "train_seconds": {run_name(*variant): spent for variant, spent in zip(variants, seconds, strict=True)},
        "scores": scores,
        "centered_pixels": centered,
        "curves": curves,
    }
    path = ROOT / args.result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw_curves(curves, path.with_suffix(".png"), floor=scores["pixels"]["unseen entities"]["mAP"])
    notes = "\n".join(f"- {key}: {value}" for key, value in circumstances().items())
    remark = (
        f"Pixels less the mean training image, 16 x 16, without any training: {centered:.3f} mAP on unseen entities."
    )
    path.with_suffix(".md").write_text(f"{table}\n\n{remark}\n\n{notes}\n", encoding="utf-8")
    print(table)


def run_name(recipe: str, seed: int) -> str:
    return f"{recipe}-seed{seed}"


def train(args: RecipesArguments, recipe: str, seed: int) -> float:
    """Trains one variant, or goes on with it; returns the seconds of this call."""
    folder = Path(args.output_dir) / run_name(recipe, seed)
    max_steps = args.max_steps or yaml.safe_load((ROOT / RECIPE).read_text(encoding="utf-8"))["max_steps"]
    flags = [f"--output_dir={folder}", f"--seed={seed}", f"--max_steps={max_steps}", "--report_to=none"]
    flags.append(f"--save_steps={max_steps // args.num_checkpoints}")
    flags.append(f"--save_total_limit={args.num_checkpoints if seed == args.seeds[0] else 1}")
    files = [argument for argument in VARIANTS[recipe] if not argument.startswith("--")]
    own_flags = [argument for argument in VARIANTS[recipe] if argument.startswith("--")]
    started = time.time()
    run("train.py", RECIPE, *files, *own_flags, *flags)
    return round(time.time() - started, 1)


def evaluate(args: RecipesArguments) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by run, benchmark and metric."""
    names = [run_name(recipe, seed) for recipe in args.recipes for seed in args.seeds]
    models = ["pixels=pixels", *(f"{name}={Path(args.output_dir) / name}" for name in names)]
    output = Path(args.output_dir) / "scores.json"
    cache = f"--cache_dir={Path(args.output_dir) / 'embeddings'}"
    figure = f"--figure={Path(args.output_dir) / 'retrievals.png'}"
    run("evaluate_mofi.py", "configs/eval_sample.yaml", "--model", *models, f"--output={output}", figure, cache)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for result in json.loads((ROOT / output).read_text(encoding="utf-8"))["results"]:
        values = {metric: value["value"] for metric, value in result["values"].items()}
        scores.setdefault(result["model"], {})[result["benchmark"]] = values
    return scores


def evaluate_checkpoints(args: RecipesArguments) -> dict[str, list[tuple[int, float]]]:
    """Images seen and mAP on unseen entities of the first seed's checkpoints, by recipe."""
    batch_size = yaml.safe_load((ROOT / RECIPE).read_text(encoding="utf-8"))["per_device_train_batch_size"]
    folders = {
        f"{recipe}@{folder.name.split('-')[-1]}": folder
        for recipe in args.recipes
        for folder in (ROOT / args.output_dir / run_name(recipe, args.seeds[0])).glob("checkpoint-*")
    }
    output = Path(args.output_dir) / "curves.json"
    run(
        "evaluate_mofi.py",
        "--model",
        *(f"{name}={folder}" for name, folder in folders.items()),
        "--data=sample_data/pairs/test.parquet",
        "--label_column=gold_entity_id",
        f"--output={output}",
        f"--cache_dir={Path(args.output_dir) / 'embeddings'}",
    )
    curves: dict[str, list[tuple[int, float]]] = {recipe: [] for recipe in args.recipes}
    for result in json.loads((ROOT / output).read_text(encoding="utf-8"))["results"]:
        recipe, step = result["model"].split("@")
        curves[recipe].append((int(step) * batch_size, result["values"]["mAP"]["value"]))
    return {recipe: sorted(points) for recipe, points in curves.items()}


def centered_pixels(size: int = 16) -> float:
    """mAP on unseen entities of pixels less the mean training image: what needs no learning."""

    def read(split: str) -> tuple[np.ndarray, list[str]]:
        rows = pq.read_table(
            ROOT / f"sample_data/pairs/{split}.parquet", columns=["image", "gold_entity_id"]
        ).to_pylist()
        images = (Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize((size, size)) for row in rows)
        return np.stack([np.asarray(image, np.float32).ravel() for image in images]), [
            r["gold_entity_id"] for r in rows
        ]

    test, labels = read("test")
    test -= read("train")[0].mean(axis=0)
    return float(np.nanmean(average_precision(test / np.linalg.norm(test, axis=1, keepdims=True), labels)))


def draw_curves(curves: dict[str, list[tuple[int, float]]], path: Path, *, floor: float) -> None:
    """Draws mAP over images seen, a line per recipe, with raw pixels as the floor."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for recipe, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=recipe)
    axes.axhline(floor, color="gray", linestyle="--", label="raw pixels")
    axes.set(xlabel="images seen", ylabel="mAP on unseen entities", title="Recipes on the sample, equal in all else")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def run(*command: str) -> None:
    environment = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)


def markdown_table(args: RecipesArguments, scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row per recipe: mean over seeds and, with several seeds, the standard deviation."""
    columns = [(benchmark, metric) for benchmark, values in scores["pixels"].items() for metric in values]
    lines = [
        f"| {len(args.seeds)} seeds | {' | '.join(f'{benchmark}: {metric}' for benchmark, metric in columns)} |",
        f"|:--|{'--:|' * len(columns)}",
    ]
    for recipe in ["pixels", *args.recipes]:
        runs = ["pixels"] if recipe == "pixels" else [run_name(recipe, seed) for seed in args.seeds]
        cells = [cell([scores[name][benchmark][metric] for name in runs]) for benchmark, metric in columns]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def circumstances() -> dict[str, str]:
    """Command, commit, hardware and date of this run."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": " ".join(["python -m benchmarks.recipes", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or "unknown",
        "hardware": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, no GPU",
        "date": date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
