"""Builds, trainings and evaluations on the sample, each in a folder of its own that a later call goes on with."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import yaml


ROOT = Path(__file__).parent.parent
RECIPE = "configs/train_sample.yaml"
CLIP_RECIPE = "configs/train_sample_clip.yaml"
# The metrics of a table, by benchmark of configs/eval_recipes.yaml and metric.
METRICS = {
    "unseen entities: mAP": ("unseen entities", "mAP"),
    "unseen entities: 1-NN": ("unseen entities", "1-NN"),
    "held-out images: mAP": ("held-out images", "mAP"),
    "held-out images: 1-NN": ("held-out images", "1-NN"),
    "unseen entities: naming top-1": ("unseen entities, naming", "text top-1"),
    "unseen entities: naming top-5": ("unseen entities, naming", "text top-5"),
    "held-out images: naming top-1": ("held-out images, naming", "text top-1"),
    "held-out images: naming top-5": ("held-out images, naming", "text top-5"),
    "unseen entities: image to text R@1": ("unseen entities, texts", "image to text R@1"),
    "unseen entities: text to image R@1": ("unseen entities, texts", "text to image R@1"),
}
Scores = dict[str, float]


def build(output_dir: Path, *flags: str) -> Path:
    """Builds an I2E dataset of the sample with the recipe's settings and these flags."""
    run("-m", "data_scripts.build_i2e", "configs/build_sample.yaml", f"--output_dir={output_dir}", *flags)
    return output_dir


def train(
    output_dir: Path, *files_and_flags: str, max_steps: int, seed: int = 0, save_steps: int | None = None
) -> float:
    """Trains the sample's recipe, changed by files and flags; returns the seconds of this call."""
    files = [argument for argument in files_and_flags if not argument.startswith("--")]
    flags = [argument for argument in files_and_flags if argument.startswith("--")]
    flags += [f"--output_dir={output_dir}", f"--seed={seed}", f"--max_steps={max_steps}", "--report_to=none"]
    # A twentieth, as in the recipe.
    flags += [f"--warmup_steps={max_steps // 20}", f"--save_steps={save_steps or max_steps}", "--save_total_limit=20"]
    started = time.time()
    run("train.py", RECIPE, *files, *flags)
    return round(time.time() - started, 1)


def evaluate(models: dict[str, Path], folder: Path) -> dict[str, Scores]:
    """Scores of each model by the names of `METRICS`, those it has; embeddings are kept in the folder."""
    if not models:
        return {}
    output = folder / "scores.json"
    paths = [f"{name}={path}" for name, path in models.items()]
    run(
        *("evaluate_mofi.py", "configs/eval_recipes.yaml", "--model", *paths),
        *(f"--output={output}", f"--cache_dir={folder / 'embeddings'}"),
    )
    values: dict[str, dict[tuple[str, str], float]] = {name: {} for name in models}
    for result in json.loads((ROOT / output).read_text(encoding="utf-8"))["results"]:
        for metric, value in result["values"].items():
            values[result["model"]][result["benchmark"], metric] = value["value"]
    return {
        name: {title: of_model[key] for title, key in METRICS.items() if key in of_model}
        for name, of_model in values.items()
    }


def mean_and_spread(values: list[float]) -> str:
    """Mean over seeds and, with several, the standard deviation; nothing if no run has a value."""
    if not values:
        return ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def images_per_step() -> int:
    """Batch size of the sample's recipe."""
    return recipe_value("per_device_train_batch_size")


def recipe_value(name: str) -> object:
    """A value of the sample's recipe."""
    return yaml.safe_load((ROOT / RECIPE).read_text(encoding="utf-8"))[name]


def run(*command: str) -> None:
    """Runs one of the project's commands.

    Raises:
        subprocess.CalledProcessError: If it fails; it has said why.
    """
    environment = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)
