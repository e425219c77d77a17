"""Compares MOFI's recipes on the sample at equal architecture, initialisation, augmentation and number of seen images.

    python benchmarks/recipes.py --recipes clip multi-task --seeds 0 1 2

For each recipe and seed it trains, then evaluates retrieval of unseen entities (test) and of held-out images
(validation), and writes a table of means and spreads beside a JSON of every run to benchmarks/results/. The I2E data
set is the one that `make demo` builds; every seed of every recipe trains on the same rows of it.
"""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import mean, stdev

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
    output_dir: str = "runs/recipes"
    result: str = "benchmarks/results/recipes"


def main() -> None:
    (args,) = parse_recipe(RecipesArguments, description="Compares MOFI's recipes on the sample.")
    unknown = set(args.recipes) - set(VARIANTS)
    if unknown:
        raise ValueError(f"Unknown recipes {', '.join(sorted(unknown))}; known are {', '.join(VARIANTS)}.")
    seconds = {}
    for recipe in args.recipes:
        for seed in args.seeds:
            seconds[run_name(recipe, seed)] = train(args, recipe, seed)
    scores = evaluate(args)
    table = markdown_table(args, scores)
    document = {**circumstances(), "train_seconds": seconds, "scores": scores}
    path = ROOT / args.result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    notes = "\n".join(f"- {key}: {value}" for key, value in circumstances().items())
    path.with_suffix(".md").write_text(f"{table}\n\n{notes}\n", encoding="utf-8")
    print(table)


def run_name(recipe: str, seed: int) -> str:
    return f"{recipe}-seed{seed}"


def train(args: RecipesArguments, recipe: str, seed: int) -> float:
    """Trains one variant, or goes on with it; returns the seconds of this call."""
    folder = Path(args.output_dir) / run_name(recipe, seed)
    flags = [f"--output_dir={folder}", f"--seed={seed}", "--save_total_limit=1", "--report_to=none"]
    if args.max_steps is not None:
        flags.append(f"--max_steps={args.max_steps}")
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
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip() or "unknown",
        "hardware": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, no GPU",
        "date": date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
