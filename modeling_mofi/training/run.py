"""A training run: supervised by entities, by contrast with texts, or both (multi-task, which is MOFI).

    accelerate launch -m mofi train configs/train_sample.yaml --output_dir runs/sample/mofi --learning_rate 5e-4

The recipe is a YAML file; every key of it is also a flag, and flags win. Started again with the same output_dir, it
goes on from the last complete checkpoint, or says that everything is done.
"""

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download

from ..bundled import bundled
from ..data.augmentation import Augmentation
from ..data.collator import WINDOW_ROWS, MofiDataCollator, PositionDataset
from ..data.entity_table import EntityTable
from ..data.parquet_rows import ParquetRows, downloaded, find_parquet_files
from ..data.streamed_rows import open_rows
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor
from ..recipe_parser import parse_recipe
from ..whole_files import try_read_json
from .arguments import MofiTrainingArguments
from .checkpoint import last_complete_checkpoint
from .entity_initialization import initialize_rows
from .evaluation import RetrievalEvaluation
from .model_building import ModelArguments, build_model, load_processor, view_size
from .trainer import MofiTrainer


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
        metadata={"help": "Labelled images for retrieval while training: Parquet, or a folder's validation."},
    )
    eval_label_column: str = field(default="label", metadata={"help": "Column of the labels of eval_dataset."})
    keep_decoded: bool = field(default=False, metadata={"help": "Keep decoded images in memory (small sets only)."})


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    model_args, data_args, args = parse_recipe((ModelArguments, DataArguments, MofiTrainingArguments), argv)
    set_up_logging(args)
    check_continuation(args, {**vars(model_args), **vars(data_args), **args.to_dict()})
    if is_trained(args):
        logger.info("%s is trained already; remove the folder to train again", args.output_dir)
        return
    entities_path = find_entities(data_args)
    rows = load_rows(data_args, args)
    entities = load_entities(entities_path, rows, args)
    processor = load_processor(model_args)
    model = build_model(model_args, processor, args, num_entities=0 if entities is None else len(entities))
    checkpoint = args.resume_from_checkpoint or find_checkpoint(args)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    elif model.entity_head is not None:
        from_texts = model_args.entity_init == "text"
        model.to(args.device)
        initialize_rows(model, entities, processor, init_from=model_args.init_from, from_texts=from_texts)
    trainer = build_trainer(model, processor, rows, entities, data_args, args)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.save_metrics("train", result.metrics)  # Last: its file says that the run is done.


def set_up_logging(args: MofiTrainingArguments) -> None:
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING, format="%(message)s")
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()  # Of loading and saving; training keeps its own.
    for noisy in ("httpx", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers.set_seed(args.seed)


def check_continuation(args: MofiTrainingArguments, recipe: dict[str, Any]) -> None:
    """Notes the recipe in output_dir, and refuses to go on there with another one.

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
    return state.get("num_train_epochs") == math.ceil(args.num_train_epochs)


def find_checkpoint(args: MofiTrainingArguments) -> str | None:
    checkpoint = last_complete_checkpoint(args.output_dir)
    return str(checkpoint) if checkpoint is not None else None


def load_rows(data_args: DataArguments, args: MofiTrainingArguments) -> ParquetRows:
    """Opens the dataset: undecoded images, and only the columns that training reads.

    Raises:
        ValueError: If it is missing, empty, lacks a column or has fewer rows than a global batch.
    """
    files = find_parquet_files(data_args.dataset, split=data_args.split, streaming=data_args.streaming)
    rows = open_rows(files, {}, num_cached_rows=WINDOW_ROWS, num_kept_rows=2 * rows_at_work(args))
    columns = {data_args.image_column: "image"}
    if args.recipe != "supervised":
        columns[data_args.alt_text_column] = "alt_text"
    columns |= {name: name for name in ("image_id", "entity_labels") if name in rows.schemas[0].names}
    if weighs_entities(args):
        columns["entities"] = "entities"
    rows = rows.with_columns(columns)
    batch_size = args.train_batch_size * args.world_size
    if len(rows) < batch_size:
        raise ValueError(
            f"{data_args.dataset} has {len(rows)} rows, fewer than a global batch of {batch_size} "
            f"({args.train_batch_size} on each of {args.world_size} processes). Lower per_device_train_batch_size."
        )
    return rows


def rows_at_work(args: MofiTrainingArguments) -> int:
    """Rows of this machine that its workers prepare and its processes train on at one time, at most."""
    num_batches = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return num_processes * num_batches * args.train_batch_size


def weighs_entities(args: MofiTrainingArguments) -> bool:
    """Whether images count differently in an entity loss."""
    return args.entity_weighting == "similarity" and args.recipe != "contrastive"


def find_entities(data_args: DataArguments) -> str | None:
    """Path of entities.parquet: the given one, the dataset's own, or None if there is none."""
    if data_args.entities is not None:
        return downloaded([data_args.entities], streaming=False)[0]
    if data_args.dataset.endswith(".parquet"):
        return None
    if Path(data_args.dataset).is_dir():
        path = Path(data_args.dataset) / "entities.parquet"
        return str(path) if path.is_file() else None
    try:
        return hf_hub_download(data_args.dataset, "entities.parquet", repo_type="dataset")
    except Exception as error:  # noqa: BLE001 - whatever the Hub answers, the user decides.
        logger.warning("no entities.parquet from %s (%s)", data_args.dataset, error)
        return None


def load_entities(path: str | None, rows: ParquetRows, args: MofiTrainingArguments) -> EntityTable | None:
    """Reads entities.parquet and checks that the rows speak of the same entities.

    Raises:
        ValueError: If the recipe needs entities and there are none, or if they belong to another build.
    """
    if path is None or "entity_labels" not in rows.column_names:
        if args.recipe != "contrastive":
            raise ValueError(
                f"The recipe {args.recipe} needs entities, but the dataset has no entities.parquet or no column "
                "entity_labels. Build it with data_scripts.build_i2e, or set --recipe contrastive."
            )
        return None
    entities = EntityTable(path)
    entities.check_build(rows)
    return entities


def build_trainer(
    model: MofiForPreTraining,
    processor: MofiProcessor,
    rows: ParquetRows,
    entities: EntityTable | None,
    data_args: DataArguments,
    args: MofiTrainingArguments,
) -> MofiTrainer:
    image_size = view_size(model.config, processor.image_processor)
    unknown = set(args.augmentation) - {field.name for field in fields(Augmentation)}
    if unknown:
        raise ValueError(f"augmentation has the unknown settings {', '.join(sorted(unknown))}.")
    augmentation = Augmentation(**args.augmentation)
    collator = MofiDataCollator(
        processor,
        image_size=(image_size, image_size),
        text_proportions=None if args.recipe == "supervised" else args.text_proportions,
        entities=entities,
        with_weights=weighs_entities(args),
        augmentation=augmentation,
        normalizes=False,
        num_patches=(image_size // model.config.vision_config.patch_size) ** 2 if args.patch_dropout_schedule else 0,
        seed=args.seed,
    )
    # The smallest crop still has a pixel of its own for each pixel of the view.
    min_side = math.ceil(image_size * max(2.0, augmentation.min_crop_area**-0.5))
    evaluation = build_evaluation(processor, data_args, args)
    return MofiTrainer(
        model,
        args=args,
        train_dataset=PositionDataset(rows, min_side=min_side, keep_decoded=data_args.keep_decoded),
        eval_dataset=None if evaluation is None else evaluation.rows,
        evaluate_model=evaluation,
        data_collator=collator,
        processing_class=processor,
        entities_path=None if entities is None else entities.path,
    )


def build_evaluation(
    processor: MofiProcessor, data_args: DataArguments, args: MofiTrainingArguments
) -> RetrievalEvaluation | None:
    """Retrieval among the images of eval_dataset, or None without one."""
    if data_args.eval_dataset is None:
        return None
    files = find_parquet_files(data_args.eval_dataset, split="validation")
    rows = ParquetRows(files, {data_args.image_column: "image", data_args.eval_label_column: "label"})
    return RetrievalEvaluation(rows, processor, compute=retrieval_metrics, batch_size=args.per_device_eval_batch_size)


def retrieval_metrics(image_embeds: torch.Tensor, labels: list[Any]) -> dict[str, float]:
    """Mean average precision with the query left out, in [0, 1]."""
    import evaluate  # Of the extra `evaluate`, which training without evaluation does not need.

    metric = evaluate.load(str(bundled("metrics") / "retrieval_map"))
    return {"retrieval_map": metric.compute(image_embeds=image_embeds, labels=labels)["mean_average_precision"]}
