"""MOFI from a tower that was trained before, beside that tower untouched and MOFI from scratch, on the sample.

    python -m benchmarks.finetuning --seeds 0 1 2

The tower is one CLIP on the raw pairs, with the architecture and augmentation of all others; it has also filtered the
I2E dataset. MOFI from scratch sees as many images as fine-tuning, and in a further run as many as the tower and
fine-tuning together. To benchmarks/results/ it writes finetuning.json and finetuning.md. Interrupted, it goes on where
it was.
"""

from dataclasses import dataclass, field
from pathlib import Path

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
    train,
)
from modeling_mofi.recipe_parser import parse_recipe


FINETUNE_RECIPE = "configs/train_sample_finetune.yaml"
CLIP, FINETUNED, SCRATCH, LONG = "clip", "finetuned", "scratch", "scratch-long"


@dataclass
class FinetuningArguments:
    """How long to train, and where to write it."""

    runs: list[str] = field(default_factory=lambda: [FINETUNED, SCRATCH, LONG])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    tower_seed: int = 0
    tower_steps: int = field(default=800, metadata={"help": "Steps of the tower that is fine-tuned."})
    max_steps: int = field(default=400, metadata={"help": "Steps of fine-tuning, and of MOFI from scratch."})
    learning_rate: float | None = field(default=None, metadata={"help": "Of fine-tuning; null for the recipe's."})
    output_dir: str = "runs/finetuning"
    result: str = "benchmarks/results/finetuning"


def main() -> None:
    (args,) = parse_recipe(FinetuningArguments, description="Compares fine-tuning with training from scratch.")
    folder = Path(args.output_dir)
    tower = folder / f"{CLIP}-seed{args.tower_seed}"
    train(tower, CLIP_RECIPE, max_steps=args.tower_steps, seed=args.tower_seed)
    build(folder / "i2e", f"--filter_model={tower}")
    names = {run: [f"{run}-seed{seed}" for seed in args.seeds] for run in args.runs}
    for seed in args.seeds:
        for run in names:
            train_one(args, run, seed, tower=tower)
    names = {CLIP: [tower.name], **names}
    scores = evaluate({name: folder / name for of_run in names.values() for name in of_run}, folder)
    path = ROOT / args.result
    num_images = {run: images_seen(args, run) for run in names}
    write_record(path.with_suffix(".json"), {"images_seen": num_images, "scores": scores})
    table = markdown_table(names, num_images, scores)
    path.with_suffix(".md").write_text(f"{table}\n\n{provenance(path.with_suffix('.json'))}\n", encoding="utf-8")
    print(table)


def train_one(args: FinetuningArguments, run: str, seed: int, *, tower: Path) -> None:
    """Trains one run with one seed, or goes on with it."""
    settings = [f"--dataset={Path(args.output_dir) / 'i2e'}"]
    if run == FINETUNED:
        settings = [FINETUNE_RECIPE, *settings, f"--init_from={tower}"]
        settings += [] if args.learning_rate is None else [f"--learning_rate={args.learning_rate}"]
    max_steps = args.tower_steps + args.max_steps if run == LONG else args.max_steps
    train(Path(args.output_dir) / f"{run}-seed{seed}", *settings, max_steps=max_steps, seed=seed)


def images_seen(args: FinetuningArguments, run: str) -> int:
    """Images that a run has seen in all, those of its tower included."""
    steps = {CLIP: args.tower_steps, SCRATCH: args.max_steps}.get(run, args.tower_steps + args.max_steps)
    return steps * images_per_step()


def markdown_table(names: dict[str, list[str]], num_images: dict[str, int], scores: dict[str, Scores]) -> str:
    """A row per metric, a column per run: mean over seeds and, with several, the standard deviation."""
    heads = [f"{run} ({num_images[run]:,} images)" for run in names]
    num_seeds = max(map(len, names.values()))
    lines = [f"| {num_seeds} seeds | {' | '.join(heads)} |", f"|:--|{'--:|' * len(heads)}"]
    for metric in METRICS:
        cells = [
            mean_and_spread([scores[name][metric] for name in of_run if metric in scores[name]])
            for of_run in names.values()
        ]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
