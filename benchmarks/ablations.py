"""What each part of the sample's recipe is worth: one change at a time from `configs/train_sample.yaml`.

    python -m benchmarks.ablations --ablations filter linker texts

Needs the baseline that `benchmarks.recipes` trained; it is the data build's filter. Every run sees as many images. To
benchmarks/results/ it writes ablations.json and ablations.md, and a figure per ablation. Settings are to be chosen by
the held-out images; the unseen entities are for the report. Interrupted, it goes on where it was.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.evaluation_record import write_record
from benchmarks.sample_runs import METRICS, ROOT, Scores, build, evaluate, recipe_value, train
from benchmarks.sample_subsets import write_fewer_entities, write_fewer_images, write_gold_labels
from modeling_mofi.recipe_parser import parse_recipe


SHARES = (0.1, 0.25, 0.5)
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One change: to the data build, to the pairs it reads, or to the training."""

    build: tuple[str, ...] = ()
    train: dict[str, object] = field(default_factory=dict)
    images: float = 1.0
    entities: float = 1.0
    gold_labels: bool = False
    second_round: bool = False

    @property
    def has_own_data(self) -> bool:
        return bool(self.build) or self.images < 1 or self.entities < 1 or self.gold_labels or self.second_round


def texts(**proportions: float) -> Variant:
    return Variant(train={"text_proportions": proportions})


def augmented(**changes: float) -> Variant:
    return Variant(train={"augmentation": recipe_value("augmentation") | changes})


# `DEFAULT` names the recipe as it is, and stands in a figure under the name that it has there.
ABLATIONS: dict[str, dict[str, Variant | str]] = {
    "filter": {
        "none": Variant(build=("--keep_fraction=1.0",)),
        "CLIP, keep 0.9": DEFAULT,
        "CLIP, keep 0.7": Variant(build=("--keep_fraction=0.7",)),
        "true labels": Variant(gold_labels=True),
    },
    "linker": {
        "prior and spelling": Variant(build=("--coherence=false", "--text_similarity=false")),
        "+ coherence": Variant(build=("--text_similarity=false",)),
        "+ coherence + text": DEFAULT,
        "image instead of text": Variant(build=("--disambiguation=image",)),
        "text and image": Variant(build=("--disambiguation=both",)),
    },
    "texts": {
        "alt_text": texts(alt_text=1),
        "name": texts(name=1),
        "name and description": texts(name_and_description=1),
        "all three": texts(alt_text=0.34, name=0.33, name_and_description=0.33),
        "0.1, 0.45, 0.45": DEFAULT,
    },
    "entity loss weight": {
        **{str(weight): Variant(train={"entity_loss_weight": weight}) for weight in (0.2, 0.5)},
        "0.8": DEFAULT,
        "0.95": Variant(train={"entity_loss_weight": 0.95}),
    },
    "margin": {
        "0": Variant(train={"entity_margin": 0}),
        "0.1": Variant(train={"entity_margin": 0.1}),
        "0.2": DEFAULT,
        "0.35": Variant(train={"entity_margin": 0.35}),
    },
    "scale": {
        "8": Variant(train={"entity_scale": 8}),
        "16": DEFAULT,
        "32": Variant(train={"entity_scale": 32}),
        "64": Variant(train={"entity_scale": 64}),
    },
    "sampled entities": {
        **{str(number): Variant(train={"num_sampled_entities": number}) for number in (16, 64, 256)},
        "all": DEFAULT,
    },
    "training images": {f"{share:.0%}": Variant(images=share) for share in SHARES} | {"100%": DEFAULT},
    "entities": {f"{share:.0%}": Variant(entities=share) for share in SHARES} | {"100%": DEFAULT},
    "patch dropout": {
        "0": DEFAULT,
        "0.25": Variant(train={"patch_dropout_schedule": {"0": 0.25}}),
        "0.5": Variant(train={"patch_dropout_schedule": {"0": 0.5}}),
        "0.5, then 0": Variant(train={"patch_dropout_schedule": {"0": 0.5, "0.8": 0}}),
    },
    "stem": {
        "linear patches": Variant(train={"stem_channels": []}),
        "convolutions": DEFAULT,
    },
    "augmentation": {
        "none": Variant(train={"augmentation": {}}),
        "recipe": DEFAULT,
        "smaller crops": augmented(min_crop_area=0.25),
        "more colour": augmented(color_jitter=0.5, gray_probability=0.3),
    },
    "refinements": {
        "recipe": DEFAULT,
        "average of weights": Variant(train={"ema_decay": 0.99}),
        "weighted by similarity": Variant(train={"entity_weighting": "similarity"}),
        "filtered by MOFI": Variant(second_round=True),
    },
}


@dataclass
class AblationsArguments:
    """What to compare, and where to write it."""

    ablations: list[str] = field(default_factory=lambda: list(ABLATIONS))
    max_steps: int = 600
    seed: int = 0
    num_parallel: int = field(default=1, metadata={"help": "Runs at a time."})
    baseline: str = field(default="runs/recipes/clip-seed0", metadata={"help": "The filter of the data build."})
    output_dir: str = "runs/ablations"
    result: str = "benchmarks/results/ablations"


def main() -> None:
    (args,) = parse_recipe(AblationsArguments, description="What each part of the sample's recipe is worth.")
    unknown = set(args.ablations) - set(ABLATIONS)
    if unknown:
        raise ValueError(f"Unknown ablations {', '.join(sorted(unknown))}; known are {', '.join(ABLATIONS)}.")
    runs = {DEFAULT: Variant()}
    for name in args.ablations:
        runs |= {f"{name}/{title}": variant for title, variant in ABLATIONS[name].items() if variant != DEFAULT}
    prepare_data(args, runs)
    with ThreadPoolExecutor(args.num_parallel) as threads:
        seconds = list(threads.map(lambda run: train_one(args, *run), runs.items()))
    scores = evaluate({name: folder_of(args, name) for name in runs}, Path(args.output_dir))
    path = ROOT / args.result
    earlier = json.loads(path.with_suffix(".json").read_text())["runs"] if path.with_suffix(".json").is_file() else {}
    spent = dict(zip(runs, seconds, strict=True))
    measured = {name: {"seconds": spent[name], **values} for name, values in scores.items()}
    write_record(path.with_suffix(".json"), {"max_steps": args.max_steps, "runs": earlier | measured})
    report(path, earlier | measured)


def prepare_data(args: AblationsArguments, runs: dict[str, Variant]) -> None:
    """Builds the data sets that the runs train on, all but those that a trained run filters."""
    for name, variant in runs.items():
        if name == DEFAULT or (variant.has_own_data and not variant.second_round):
            prepare_one(args, data_of(args, name, variant), variant)


def prepare_one(args: AblationsArguments, folder: Path, variant: Variant) -> None:
    pairs = folder.with_suffix(".parquet")
    if variant.gold_labels:
        write_gold_labels(folder)
        return
    flags = [f"--filter_model={args.baseline}", *variant.build]
    if variant.images < 1:
        flags.append(f"--pairs={write_fewer_images(pairs, fraction=variant.images)}")
    if variant.entities < 1:
        flags.append(f"--pairs={write_fewer_entities(pairs, fraction=variant.entities)}")
    build(folder, *flags)


def train_one(args: AblationsArguments, name: str, variant: Variant) -> float:
    """Trains one variant, or goes on with it; returns the seconds of this call."""
    data = data_of(args, name, variant)
    if variant.second_round:
        # What MOFI read in training: names and descriptions.
        build(data, f"--filter_model={folder_of(args, DEFAULT)}", "--entity_template={name}, {description}")
    settings = ROOT / folder_of(args, name).with_suffix(".yaml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(variant.train), encoding="utf-8")
    flags = [str(settings), f"--dataset={data}"]
    return train(folder_of(args, name), *flags, max_steps=args.max_steps, seed=args.seed)


def folder_of(args: AblationsArguments, name: str) -> Path:
    return Path(args.output_dir) / "".join(letter if letter.isalnum() else "_" for letter in name)


def data_of(args: AblationsArguments, name: str, variant: Variant) -> Path:
    own = name if variant.has_own_data else DEFAULT
    return Path(args.output_dir) / f"i2e_{folder_of(args, own).name}"


def report(path: Path, runs: dict[str, Scores]) -> None:
    """Writes the tables of all ablations measured so far, and their figures."""
    sections = []
    for name, variants in ABLATIONS.items():
        named = {title: DEFAULT if variant == DEFAULT else f"{name}/{title}" for title, variant in variants.items()}
        rows = {title: runs[run] for title, run in named.items() if run in runs}
        if len(rows) > 1:
            sections.append(f"## {name.capitalize()}\n\n{markdown_table(rows)}")
            draw(name, rows, path.with_name("ablations") / f"{name.replace(' ', '_')}.png")
    path.with_suffix(".md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def markdown_table(rows: dict[str, Scores]) -> str:
    """A row per variant, a column per metric."""
    metrics = [metric for metric in METRICS if "top-5" not in metric and "1-NN" not in metric]
    lines = [f"| | {' | '.join(metrics)} |", f"|:--|{'--:|' * len(metrics)}"]
    for title, scores in rows.items():
        cells = [f"{scores[metric]:.3f}" if metric in scores else "" for metric in metrics]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(name: str, rows: dict[str, Scores], path: Path) -> None:
    """Draws retrieval mAP of both splits, and naming of held-out images, a point per variant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for metric in ("held-out images: mAP", "unseen entities: mAP", "held-out images: naming top-1"):
        axes.plot(list(rows), [scores.get(metric) for scores in rows.values()], marker="o", label=metric)
    axes.set(title=name)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
