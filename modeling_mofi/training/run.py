"""A training run: supervised by entities, by contrast with texts, or both (multi-task, which is MOFI).

    accelerate launch -m mofi train configs/train_sample.yaml --output_dir runs/sample/mofi --learning_rate 5e-4

The recipe is a YAML file; every key of it is also a flag, and flags win. Started again with the same output_dir, it
resumes from the last complete checkpoint, or says that everything is done.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

from ..recipe_parser import parse_recipe
from ..whole_files import try_read_json
from .arguments import MofiTrainingArguments
from .checkpoint import last_complete_checkpoint
from .model_building import ModelArguments, has_texts
from .trainer import MofiTrainer
from .training_data import EvaluationData, find_entities, load_rows


logger = logging.getLogger(__name__)

# Keys that may change between the start of a run and its continuation: they say how long, where and how fast it runs,
# on how many processes (at a fixed global batch), and what it reports.
VOLATILE_KEYS = ("output_dir", "num_train_epochs", "max_steps", "report_to", "run_name", "keep_decoded", "use_cpu")
VOLATILE_PREFIXES = (
    *(
        "logging",
        "log_",
        "save",
        "eval",
        "hub",
        "push",
        "project",
        "trackio",
        "disable",
        "resume",
        "load_best",
        "metric",
    ),
    *(
        "per_device",
        "dataloader_num",
        "ddp",
        "fsdp",
        "torch_compile",
        "gradient_cache",
        "gradient_checkpointing",
        "streaming",
    ),
)


@dataclass
class DataArguments:
    """What to train on."""

    dataset: str = field(metadata={"help": "I2E folder, Parquet file(s), glob or URL, or dataset id on the Hub."})
    streaming: bool = field(
        default=False, metadata={"help": "Fetch row groups as they are needed instead of copying the files first."}
    )
    split: str = field(default="train", metadata={"help": "Split to train on."})
    image_column: str = field(default="image", metadata={"help": "Column of encoded images."})
    alt_text_column: str = field(default="alt_text", metadata={"help": "Column of texts beside the images."})
    entities: str | None = field(
        default=None, metadata={"help": "entities.parquet, here or a URL; null for the dataset's own, if it has one."}
    )
    eval_dataset: str | None = field(
        default=None,
        metadata={"help": "Labeled images to evaluate on while training: Parquet, or a build or id on the Hub."},
    )
    eval_label_column: str | None = field(
        default=None, metadata={"help": "Its column of labels; null for entity_labels if there are, else label."}
    )
    keep_decoded: bool = field(default=False, metadata={"help": "Keep decoded images in memory (small sets only)."})


KINDS = (ModelArguments, DataArguments, MofiTrainingArguments)


def main(argv: Sequence[str] | None = None) -> None:
    """The command: one run, or with `text_alignment_epochs` a second one for the text tower."""
    argv = list(sys.argv[1:] if argv is None else argv)
    model_args, data_args, args = parse_recipe(KINDS, argv)
    if args.text_alignment_epochs:
        model_args, data_args, args = train_before_alignment(argv, model_args, args)
    run(model_args, data_args, args)


def train_before_alignment(
    argv: list[str], model_args: ModelArguments, args: MofiTrainingArguments
) -> tuple[ModelArguments, DataArguments, MofiTrainingArguments]:
    """Makes the run that the recipe describes, and returns the settings of the one that aligns the text tower with it.

    Source: Schall et al. (https://arxiv.org/abs/2409.01936), who align the text tower of a CLIP model that was
    fine-tuned for image retrieval.
    """
    if not has_texts(model_args):
        raise ValueError("text_alignment_epochs is for a text tower, and there is none: give one by text_init_from.")
    before = Path(args.output_dir) / "before_alignment"
    run(*parse_recipe(KINDS, [*argv, f"--output_dir={before}", "--push_to_hub=false"]))
    flags = ["--recipe=multi-task", "--entity_loss_weight=0", "--frozen_parts", "image_tower", "entity_head"]
    flags += [f"--num_train_epochs={args.text_alignment_epochs}", "--max_steps=-1"]
    _, data_args, args = parse_recipe(KINDS, [*argv, *flags])
    return ModelArguments(str(before), attn_implementation=model_args.attn_implementation), data_args, args


def run(model_args: ModelArguments, data_args: DataArguments, args: MofiTrainingArguments) -> None:
    """Trains, or goes on with what output_dir holds, and saves the result there."""
    set_up_logging(args)
    warn_of_one_process(args)
    columns = {"image_column": data_args.image_column, "alt_text_column": data_args.alt_text_column}
    rows = load_rows(data_args.dataset, args, split=data_args.split, streaming=data_args.streaming, **columns)
    recipe = {**vars(model_args), **vars(data_args), **args.to_dict(), "num_rows": len(rows)}
    check_continuation(args, recipe)
    if is_trained(args):
        logger.info("%s is trained already; remove the folder to train again", args.output_dir)
        return
    args.resume_from_checkpoint = args.resume_from_checkpoint or find_checkpoint(args)
    if args.resume_from_checkpoint is not None:
        logger.info("going on from %s", args.resume_from_checkpoint)
    evaluation = None
    if data_args.eval_dataset is not None:
        evaluation = EvaluationData(data_args.eval_dataset, label_column=data_args.eval_label_column, **columns)
    trainer = MofiTrainer(
        model_args,
        args=args,
        train_dataset=rows,
        entities=find_entities(data_args.dataset, data_args.entities),
        eval_dataset=evaluation,
        keep_decoded=data_args.keep_decoded,
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.interruption.end_process()
    trainer.save_model()
    trainer.save_state()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.save_metrics("train", result.metrics)  # Last: its file says that the run is done.


def warn_of_one_process(args: MofiTrainingArguments) -> None:
    """Says so where accelerate was asked for several processes: with `--cpu` it starts one all the same."""
    words = parent_command_line()
    asked = words[words.index("--num_processes") + 1] if "--num_processes" in words[:-1] else "1"
    if args.world_size == 1 and asked != "1" and any("accelerate" in word for word in words):
        logger.warning(
            "accelerate was asked for %s processes, but with --cpu it starts one; for more: torchrun "
            "--nproc_per_node %s train.py",
            *(asked, asked),
        )


def parent_command_line() -> list[str]:
    """Words of the command that started this process; none where the system does not say."""
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return []


def set_up_logging(args: MofiTrainingArguments) -> None:
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING, format="%(message)s")
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()  # Of loading and saving; training keeps its own.
    for noisy in ("httpx", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers.set_seed(args.seed)


def check_continuation(args: MofiTrainingArguments, recipe: dict[str, Any]) -> None:
    """Records the recipe in output_dir, and rejects resuming there with another one.

    Raises:
        ValueError: If output_dir holds a run whose recipe differs.
    """
    recipe = {
        key: value
        for key, value in json.loads(json.dumps(recipe, default=str)).items()
        if key not in VOLATILE_KEYS and not key.startswith(VOLATILE_PREFIXES)
    }
    recipe["global_batch_size"] = args.train_batch_size * args.world_size
    path = Path(args.output_dir) / "recipe.json"
    has_begun = find_checkpoint(args) is not None or (path.parent / "train_results.json").is_file()
    noted = try_read_json(path) if has_begun else None
    noted = noted or {}
    changed = {key for key in recipe if key in noted and noted[key] != recipe[key]}
    if changed:
        changes = "; ".join(f"{key} was {noted[key]!r}, is {recipe[key]!r}" for key in sorted(changed))
        raise ValueError(f"{args.output_dir} holds a run of another recipe ({changes}). Choose another output_dir.")
    if args.should_save:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=1, sort_keys=True), encoding="utf-8")


def is_trained(args: MofiTrainingArguments) -> bool:
    """Whether output_dir holds a finished run of as many steps or epochs."""
    state = try_read_json(Path(args.output_dir) / "trainer_state.json") or {}
    if not (Path(args.output_dir) / "train_results.json").is_file():
        return False
    if args.max_steps > 0:
        return state.get("max_steps") == args.max_steps
    # The state rounds a fraction of an epoch up.
    noted = try_read_json(Path(args.output_dir) / "training_args.json") or {}
    return noted.get("max_steps", 0) <= 0 and noted.get("num_train_epochs") == args.num_train_epochs


def find_checkpoint(args: MofiTrainingArguments) -> str | None:
    checkpoint = last_complete_checkpoint(args.output_dir)
    return str(checkpoint) if checkpoint is not None else None
