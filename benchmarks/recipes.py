"""Compares MOFI's recipes on the sample at equal architecture, initialization, augmentation and number of seen images.

    python -m benchmarks.recipes --recipes clip supervised contrastive multi-task --seeds 0 1 2

The CLIP baseline learns from the raw alt-texts, the others from the I2E dataset that the first seed's baseline
filtered, as in `make demo`. To benchmarks/results/ it writes a table of means and spreads, a JSON of every run, and a
figure of how the first seed's checkpoints grew. Interrupted, it goes on where it was.
"""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.evaluation_record import provenance, write_record
from benchmarks.sample_runs import (
    CLIP_RECIPE,
    METRICS,
    ROOT,
    Scores,
    build,
    evaluate,
    images_per_step,
    mean_and_spread,
    recipe_value,
    train,
)
from metrics.retrieval_map.retrieval_map import average_precision
from modeling_mofi.recipe_parser import parse_recipe


RECIPES = ("clip", "supervised", "contrastive", "multi-task")


@dataclass
class RecipesArguments:
    """What to compare, and where to write it."""

    recipes: list[str] = field(default_factory=lambda: list(RECIPES))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    max_steps: int | None = field(default=None, metadata={"help": "Null for the recipe's own number."})
    num_checkpoints: int = field(default=8, metadata={"help": "Points of the figure, from the first seed's run."})
    num_parallel: int = field(default=1, metadata={"help": "Runs at a time."})
    output_dir: str = "runs/recipes"
    result: str = "benchmarks/results/recipes"


def main() -> None:
    (args,) = parse_recipe(RecipesArguments, description="Compares MOFI's recipes on the sample.")
    unknown = set(args.recipes) - set(RECIPES)
    if unknown:
        raise ValueError(f"Unknown recipes {', '.join(sorted(unknown))}; known are {', '.join(RECIPES)}.")
    seconds = train_all(args)
    runs = {run_name(*variant): folder_of(args, *variant) for variant in variants(args)}
    scores = evaluate({"pixels": "pixels", **runs}, Path(args.output_dir))
    curves = evaluate_checkpoints(args)
    document = {
        "train_seconds": seconds,
        "scores": scores,
        "centered_pixels": centered_pixels(),
        "curves": curves,
    }
    path = ROOT / args.result
    write_record(path.with_suffix(".json"), document)
    draw_curves(curves, path.with_suffix(".png"), floor=scores["pixels"]["unseen entities: mAP"])
    table = markdown_table(args, scores)
    path.with_suffix(".md").write_text(f"{table}\n\n{remarks(path.with_suffix('.json'))}\n", encoding="utf-8")
    print(table)


def variants(args: RecipesArguments) -> list[tuple[str, int]]:
    """All recipes and seeds, the first seed's baseline first, because the data build needs it."""
    pairs = [(recipe, seed) for recipe in args.recipes for seed in args.seeds]
    first = ("clip", args.seeds[0])
    return [first, *(pair for pair in pairs if pair != first)]


def train_all(args: RecipesArguments) -> dict[str, float]:
    """Trains the first baseline, builds I2E with it, trains the rest; returns the seconds of this call by run."""
    first, *others = variants(args)
    seconds = {run_name(*first): train_one(args, *first)}
    build(Path(args.output_dir) / "i2e", f"--filter_model={folder_of(args, *first)}")
    with ThreadPoolExecutor(args.num_parallel) as threads:
        spent = threads.map(lambda variant: train_one(args, *variant), others)
        return seconds | {run_name(*variant): took for variant, took in zip(others, spent, strict=True)}


def run_name(recipe: str, seed: int) -> str:
    return f"{recipe}-seed{seed}"


def folder_of(args: RecipesArguments, recipe: str, seed: int) -> Path:
    return Path(args.output_dir) / run_name(recipe, seed)


def train_one(args: RecipesArguments, recipe: str, seed: int) -> float:
    """Trains one recipe with one seed, or goes on with it; returns the seconds of this call."""
    max_steps = args.max_steps or recipe_value("max_steps")
    settings = [CLIP_RECIPE] if recipe == "clip" else [f"--recipe={recipe}", f"--dataset={args.output_dir}/i2e"]
    save_steps = max_steps // args.num_checkpoints if seed == args.seeds[0] else max_steps
    return train(folder_of(args, recipe, seed), *settings, max_steps=max_steps, seed=seed, save_steps=save_steps)


def evaluate_checkpoints(args: RecipesArguments) -> dict[str, list[tuple[int, Scores]]]:
    """Images seen and scores of the first seed's checkpoints, by recipe."""
    folders = {
        f"{recipe}@{folder.name.split('-')[-1]}": folder
        for recipe in args.recipes
        for folder in (ROOT / folder_of(args, recipe, args.seeds[0])).glob("checkpoint-*")
    }
    curves: dict[str, list[tuple[int, Scores]]] = {recipe: [] for recipe in args.recipes}
    for name, scores in evaluate(folders, Path(args.output_dir) / "curves").items():
        recipe, step = name.split("@")
        curves[recipe].append((int(step) * images_per_step(), scores))
    return {recipe: sorted(points, key=lambda point: point[0]) for recipe, points in curves.items()}


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


def draw_curves(curves: dict[str, list[tuple[int, Scores]]], path: Path, *, floor: float) -> None:
    """Draws mAP of both splits over images seen, a line per recipe, with raw pixels as the floor."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, split in zip(panels, ("unseen entities", "held-out images"), strict=True):
        for recipe, points in curves.items():
            values = [scores[f"{split}: mAP"] for _, scores in points]
            axes.plot([seen for seen, _ in points], values, marker="o", markersize=4, label=recipe)
        axes.set(xlabel="images seen", ylabel="retrieval mAP", title=split)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(floor, color="gray", linestyle="--", label="raw pixels")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def markdown_table(args: RecipesArguments, scores: dict[str, Scores]) -> str:
    """A row per metric, a column per recipe: mean over seeds and, with several seeds, the standard deviation."""
    recipes = ["pixels", *args.recipes]
    lines = [f"| {len(args.seeds)} seeds | {' | '.join(recipes)} |", f"|:--|{'--:|' * len(recipes)}"]
    for metric in METRICS:
        cells = []
        for recipe in recipes:
            runs = ["pixels"] if recipe == "pixels" else [run_name(recipe, seed) for seed in args.seeds]
            cells.append(mean_and_spread([scores[name][metric] for name in runs if metric in scores[name]]))
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def remarks(record: Path) -> str:
    """What a reader of the table must know, and how to repeat it."""
    document = json.loads(record.read_text(encoding="utf-8"))
    lines = [
        "Naming: the right entity's name comes first among the names of the entities that the split shows. Recall: of "
        "an image's own alt-text among those of the split. A supervised model's text tower is never trained.",
        "Pixels less the mean training image, 16 x 16, nothing trained: "
        f"{document['centered_pixels']:.3f} mAP on unseen entities.",
        provenance(record),
    ]
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
