"""What each part of the sample's recipe is worth: one change at a time from `configs/train_sample.yaml`.

    python -m benchmarks.ablations --ablations filter linker texts --seeds 0 1

Needs the baseline that `benchmarks.recipes` trained; it is the data build's filter. Every run sees as many images. To
benchmarks/results/ it writes ablations.json and ablations.md, and a figure per ablation. Settings are to be chosen by
the held-out images; the unseen entities are for the report. Interrupted, it goes on where it was.

An ablation whose name ends in "CLIP" repeats another with the baseline, CLIP on the raw alt-texts: where the lead of
MOFI over it comes from.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt

from benchmarks.evaluation_record import provenance, write_record
from benchmarks.sample_runs import (
    CLIP_RECIPE,
    METRICS,
    ROOT,
    Scores,
    build,
    evaluate,
    mean_and_spread,
    recipe_value,
    train,
)
from benchmarks.sample_subsets import write_fewer_entities, write_fewer_images, write_gold_labels, write_poorer_texts
from modeling_mofi.recipe_parser import parse_recipe


SHARES = (0.1, 0.25, 0.5)
POORER = (0.5, 0.8)
SUBSETS = {"images": write_fewer_images, "entities": write_fewer_entities, "poorer_texts": write_poorer_texts}
DEFAULT = "default"
CLIP = "CLIP"


@dataclass(frozen=True)
class Variant:
    """One change: to the data build, to the pairs it reads, or to the training."""

    build: tuple[str, ...] = ()
    train: dict[str, object] = field(default_factory=dict)
    pairs: tuple[str, float] | None = None  # one of SUBSETS, and the fraction that it takes
    gold_labels: bool = False
    second_round: bool = False
    is_clip: bool = False

    @property
    def has_own_data(self) -> bool:
        return bool(self.build) or self.pairs is not None or self.gold_labels or self.second_round


def texts(**proportions: float) -> Variant:
    return Variant(train={"text_proportions": proportions})


def augmented(**changes: float) -> Variant:
    return Variant(train={"augmentation": recipe_value("augmentation") | changes})


def subsets(kind: str, fractions: tuple[float, ...], *, is_clip: bool = False) -> dict[str, Variant]:
    return {f"{fraction:.0%}": Variant(pairs=(kind, fraction), is_clip=is_clip) for fraction in fractions}


# The recipe as it is, and the baseline; each stands in a figure under the name that it has there.
UNCHANGED = {DEFAULT: Variant(), CLIP: Variant(is_clip=True)}
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
    "training images": subsets("images", SHARES) | {"100%": DEFAULT},
    "training images, CLIP": subsets("images", SHARES, is_clip=True) | {"100%": CLIP},
    "entities": subsets("entities", SHARES) | {"100%": DEFAULT},
    "entities, CLIP": subsets("entities", SHARES, is_clip=True) | {"100%": CLIP},
    "texts that name nothing": {"0%": DEFAULT} | subsets("poorer_texts", POORER),
    "texts that name nothing, CLIP": {"0%": CLIP} | subsets("poorer_texts", POORER, is_clip=True),
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
        "less of each": augmented(min_crop_area=0.75, color_jitter=0.1, gray_probability=0.0, max_rotation=5),
        "recipe": DEFAULT,
        "smaller crops": augmented(min_crop_area=0.25),
        "more color": augmented(color_jitter=0.5, gray_probability=0.3),
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
    seeds: list[int] = field(default_factory=lambda: [0])
    num_parallel: int = field(default=1, metadata={"help": "Runs at a time."})
    baseline: str = field(default="runs/recipes/clip-seed0", metadata={"help": "The filter of the data build."})
    output_dir: str = "runs/ablations"
    result: str = "benchmarks/results/ablations"


def main() -> None:
    (args,) = parse_recipe(AblationsArguments, description="What each part of the sample's recipe is worth.")
    unknown = set(args.ablations) - set(ABLATIONS)
    if unknown:
        raise ValueError(f"Unknown ablations {', '.join(sorted(unknown))}; known are {', '.join(ABLATIONS)}.")
    variants = dict(UNCHANGED)
    for name in args.ablations:
        own = {title: variant for title, variant in ABLATIONS[name].items() if isinstance(variant, Variant)}
        variants |= {run_name(name, title): variant for title, variant in own.items()}
    for name, variant in variants.items():
        prepare_data(args, name, variant)
    runs = [(name, variant, seed) for seed in args.seeds for name, variant in variants.items()]
    with ThreadPoolExecutor(args.num_parallel) as threads:
        seconds = list(threads.map(lambda run: train_one(args, *run), runs))
    folders = {f"{name}@{seed}": folder_of(args, name, seed) for name, _, seed in runs}
    scores = evaluate(folders, Path(args.output_dir))
    measured = {run: {"seconds": took, **scores[run]} for run, took in zip(folders, seconds, strict=True)}
    path = ROOT / args.result
    earlier = json.loads(path.with_suffix(".json").read_text())["runs"] if path.with_suffix(".json").is_file() else {}
    write_record(path.with_suffix(".json"), {"max_steps": args.max_steps, "runs": earlier | measured})
    report(path, by_variant(earlier | measured))


def run_name(ablation: str, title: str) -> str:
    return f"{ablation}/{title}"


def prepare_data(args: AblationsArguments, name: str, variant: Variant) -> None:
    """Writes or builds what a variant trains on, but for a second round, which waits for the first."""
    folder, pairs = data_of(args, name, variant), pairs_of(args, variant)
    if variant.pairs is not None and not (ROOT / pairs).is_file():
        kind, fraction = variant.pairs
        SUBSETS[kind](ROOT / pairs, fraction=fraction)
    if variant.gold_labels:
        write_gold_labels(ROOT / folder)
    elif not (variant.is_clip or variant.second_round):
        build(folder, f"--filter_model={args.baseline}", f"--pairs={pairs}", *variant.build)


def pairs_of(args: AblationsArguments, variant: Variant) -> Path:
    """File of the pairs that a variant reads: the sample's, or a part of them."""
    if variant.pairs is None:
        return Path("sample_data/pairs/train.parquet")
    kind, fraction = variant.pairs
    return Path(args.output_dir) / "pairs" / f"{kind}_{fraction}" / "train.parquet"


def train_one(args: AblationsArguments, name: str, variant: Variant, seed: int) -> float:
    """Trains one variant, or goes on with it; returns the seconds of this call."""
    folder, data = folder_of(args, name, seed), data_of(args, name, variant)
    if variant.second_round:
        # What MOFI read in training: names and descriptions.
        data = data.with_name(f"{data.name}_{seed}")
        first = folder_of(args, DEFAULT, seed)
        build(data, f"--filter_model={first}", "--entity_template={name}, {description}")
    settings = ROOT / folder.with_suffix(".yaml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(variant.train), encoding="utf-8")
    flags = [str(settings), f"--dataset={data}"]
    recipe = [CLIP_RECIPE] if variant.is_clip else []
    return train(folder, *recipe, *flags, max_steps=args.max_steps, seed=seed)


def folder_of(args: AblationsArguments, name: str, seed: int) -> Path:
    return Path(args.output_dir) / f"{file_name(name)}_{seed}"


def data_of(args: AblationsArguments, name: str, variant: Variant) -> Path:
    """Folder of an I2E build, or of raw pairs for CLIP."""
    if variant.is_clip:
        return pairs_of(args, variant).parent
    own = name if variant.has_own_data else DEFAULT
    return Path(args.output_dir) / f"i2e_{file_name(own)}"


def file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def by_variant(runs: dict[str, Scores]) -> dict[str, list[Scores]]:
    """Scores of each variant, one per seed."""
    grouped: dict[str, list[Scores]] = {}
    for run, scores in runs.items():
        grouped.setdefault(run.rsplit("@", 1)[0], []).append(scores)
    return grouped


def report(path: Path, runs: dict[str, list[Scores]]) -> None:
    """Writes the tables of all ablations measured so far, and their figures."""
    sections = []
    rows = {name: rows_of(name, runs) for name in ABLATIONS}
    for name in ABLATIONS:
        if len(rows[name]) < 2:
            continue
        sections.append(f"## {name[0].upper()}{name[1:]}\n\n{markdown_table(rows[name])}")
        if not name.endswith(CLIP):
            draw(name, rows, path.with_suffix("") / f"{name.replace(' ', '_')}.png")
    path.with_suffix(".md").write_text(
        "\n\n".join([*sections, provenance(path.with_suffix(".json"))]) + "\n", encoding="utf-8"
    )


def rows_of(ablation: str, runs: dict[str, list[Scores]]) -> dict[str, list[Scores]]:
    """Scores by title, of those variants of an ablation that were measured."""
    named = {
        t: variant if isinstance(variant, str) else run_name(ablation, t) for t, variant in ABLATIONS[ablation].items()
    }
    return {title: runs[name] for title, name in named.items() if name in runs}


def markdown_table(rows: dict[str, list[Scores]]) -> str:
    """A row per variant, a column per metric: the mean over seeds and, with several, the standard deviation."""
    metrics = [metric for metric in METRICS if not any(left_out in metric for left_out in ("top-5", "1-NN", "R@1"))]
    lines = [f"| | {' | '.join(metrics)} | seeds |", f"|:--|{'--:|' * (len(metrics) + 1)}"]
    for title, scores in rows.items():
        cells = [mean_and_spread([run[metric] for run in scores if metric in run]) for metric in metrics]
        lines.append(f"| {title} | {' | '.join(cells)} | {len(scores)} |")
    return "\n".join(lines)


def draw(name: str, rows: dict[str, dict[str, list[Scores]]], path: Path) -> None:
    """Draws retrieval mAP of both splits and naming of held-out images, a point per variant; CLIP's dashed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    metrics = ("held-out images: mAP", "unseen entities: mAP", "held-out images: naming top-1")
    for number, metric in enumerate(metrics):
        draw_line(axes, rows[name], metric, color=f"C{number}", marker="o", label=metric)
        draw_line(axes, rows.get(f"{name}, {CLIP}", {}), metric, color=f"C{number}", linestyle="--", marker=".")
    axes.set(title=f"{name} (dashed: CLIP on alt-texts)" if f"{name}, {CLIP}" in rows else name)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_line(axes: plt.Axes, rows: dict[str, list[Scores]], metric: str, **style: str) -> None:
    """Draws the mean over seeds of one metric, with the lowest and the highest as a bar."""
    values = {title: [run[metric] for run in runs if metric in run] for title, runs in rows.items()}
    values = {title: of_runs for title, of_runs in values.items() if of_runs}
    means = [mean(of_runs) for of_runs in values.values()]
    reach = [
        [center - min(of_runs) for center, of_runs in zip(means, values.values(), strict=True)],
        [max(of_runs) - center for center, of_runs in zip(means, values.values(), strict=True)],
    ]
    if means:
        axes.errorbar(list(values), means, yerr=reach, capsize=3, **style)


if __name__ == "__main__":
    main()
