"""What a run trains and is evaluated on: rows of files, of the Hub or of `datasets`, their entities, the collator."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import hf_hub_download

from ..configuration_mofi import MofiConfig
from ..data.augmentation import Augmentation
from ..data.collator import WINDOW_ROWS, MofiDataCollator, PositionDataset
from ..data.dataset_rows import DatasetRows, EndlessRows
from ..data.entity_table import EntityTable
from ..data.images import ImageBounds
from ..data.parquet_rows import ParquetRows, downloaded, find_parquet_files
from ..data.streamed_rows import open_rows
from ..processing_mofi import MofiProcessor
from .arguments import MofiTrainingArguments
from .evaluation import RetrievalEvaluation
from .model_building import view_size


logger = logging.getLogger(__name__)

# A folder, Parquet files or a Hub id; a dataset of `datasets`; or rows that are open already.
Data = str | Path | datasets.Dataset | datasets.IterableDataset | Sequence[dict[str, Any]]


def load_rows(
    dataset: str,
    args: MofiTrainingArguments,
    *,
    split: str = "train",
    streaming: bool = False,
    image_column: str = "image",
    alt_text_column: str = "alt_text",
) -> ParquetRows:
    """Opens Parquet files: undecoded images, and only the columns that training reads.

    Raises:
        ValueError: If the dataset is missing, empty, or lacks a column.
    """
    files = find_parquet_files(dataset, split=split, streaming=streaming)
    readers = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) * max(1, args.dataloader_num_workers)
    kept = {"num_cached_rows": WINDOW_ROWS, "num_kept_rows": 2 * rows_at_work(args)}
    rows = open_rows(files, {}, num_readers=readers, **kept)
    names = rows.schemas[0].names
    return rows.with_columns(training_columns(names, args, image_column=image_column, alt_text_column=alt_text_column))


def open_data(data: Data, args: MofiTrainingArguments) -> Sequence[dict[str, Any]] | datasets.IterableDataset:
    """Rows of whatever is given to train on; a streamed dataset of `datasets` stays what it is."""
    if isinstance(data, (str, Path)):
        return load_rows(str(data), args)
    if isinstance(data, datasets.Dataset):
        return DatasetRows(data, training_columns(data.column_names, args))
    return data


def training_columns(
    names: Sequence[str],
    args: MofiTrainingArguments,
    *,
    image_column: str = "image",
    alt_text_column: str = "alt_text",
) -> dict[str, str]:
    """From the columns that training reads to the keys of its rows."""
    columns = {image_column: "image"}
    if args.recipe != "supervised":
        columns[alt_text_column] = "alt_text"
    columns |= {name: name for name in ("image_id", "entity_labels") if name in names}
    if weighs_entities(args):
        columns["entities"] = "entities"
    return columns


def rows_at_work(args: MofiTrainingArguments) -> int:
    """Rows of this machine that its workers prepare and its processes train on at one time, at most."""
    num_batches = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return num_processes * num_batches * args.train_batch_size


def weighs_entities(args: MofiTrainingArguments) -> bool:
    """Whether images count differently in an entity loss."""
    return args.entity_weighting == "similarity" and args.recipe != "contrastive"


# Entities


def find_entities(dataset: Any, given: str | Path | None = None) -> str | None:
    """Path of entities.parquet: the given one, the dataset's own, or None if there is none."""
    if given is not None:
        return downloaded([str(given)], streaming=False)[0]
    if not isinstance(dataset, (str, Path)) or str(dataset).endswith(".parquet"):
        return None
    if Path(dataset).is_dir():
        path = Path(dataset) / "entities.parquet"
        return str(path) if path.is_file() else None
    try:
        return hf_hub_download(str(dataset), "entities.parquet", repo_type="dataset")
    except Exception as error:  # noqa: BLE001 - whatever the Hub answers, the user decides.
        logger.warning("no entities.parquet from %s (%s)", dataset, error)
        return None


def load_entities(path: str | None, rows: Any, args: MofiTrainingArguments) -> EntityTable | None:
    """Reads entities.parquet and checks that the rows speak of the same entities.

    Raises:
        ValueError: If the recipe needs entities and there are none, or if they belong to another build.
    """
    if path is None or "entity_labels" not in (rows.column_names or ["entity_labels"]):
        if args.recipe != "contrastive":
            raise ValueError(
                f"The recipe {args.recipe} needs entities, but the dataset has no entities.parquet or no column "
                "entity_labels. Build it with data_scripts.build_i2e, or set --recipe contrastive."
            )
        return None
    entities = EntityTable(path)
    if isinstance(rows, ParquetRows):
        entities.check_build(rows)
    return entities


# Batches


def training_dataset(
    rows: Any, args: MofiTrainingArguments, *, image_size: int, keep_decoded: bool = False
) -> PositionDataset | EndlessRows:
    """Rows with decoded images, by position, or endless where the rows are streamed by `datasets`.

    Raises:
        ValueError: If there are fewer rows than a global batch, or a stream and no number of steps.
    """
    # The smallest crop still has a pixel of its own for each pixel of the view.
    min_side = math.ceil(image_size * max(2.0, augmentation_of(args).min_crop_area ** -0.5))
    bounds = ImageBounds(max_pixels=args.max_image_pixels)
    if isinstance(rows, datasets.IterableDataset):
        if args.max_steps < 1:
            raise ValueError("A streamed dataset has no length: set max_steps.")
        columns = training_columns(rows.column_names or ["image_id", "entity_labels"], args)
        return EndlessRows(rows, columns, min_side=min_side, bounds=bounds)
    batch_size = args.train_batch_size * args.world_size
    if len(rows) < batch_size:
        raise ValueError(
            f"The dataset has {len(rows)} rows, fewer than a global batch of {batch_size} ({args.train_batch_size} on "
            f"each of {args.world_size} processes). Lower per_device_train_batch_size."
        )
    return PositionDataset(rows, min_side=min_side, keep_decoded=keep_decoded, bounds=bounds)


def build_collator(
    processor: MofiProcessor, config: MofiConfig, entities: EntityTable | None, args: MofiTrainingArguments
) -> MofiDataCollator:
    """The collator of a recipe."""
    image_size = view_size(config, processor.image_processor)
    has_dropout = bool(args.patch_dropout_schedule)
    return MofiDataCollator(
        processor,
        image_size=(image_size, image_size),
        text_proportions=None if args.recipe == "supervised" else args.text_proportions,
        entities=entities,
        with_weights=weighs_entities(args),
        augmentation=augmentation_of(args),
        normalizes=False,
        num_patches=(image_size // config.vision_config.patch_size) ** 2 if has_dropout else 0,
        seed=args.seed,
    )


def augmentation_of(args: MofiTrainingArguments) -> Augmentation:
    """The recipe's augmentation.

    Raises:
        ValueError: If it has an unknown setting.
    """
    if unknown := set(args.augmentation) - {field.name for field in fields(Augmentation)}:
        raise ValueError(f"augmentation has the unknown settings {', '.join(sorted(unknown))}.")
    return Augmentation(**args.augmentation)


@dataclass
class EvaluationData:
    """Labeled images to evaluate on: the validation split of a build, or any others.

    Args:
        data: A folder, Parquet files or a Hub id, or a dataset of `datasets`.
        label_column: None for `entity_labels` where there are some, else `label`.
    """

    data: str | Path | datasets.Dataset
    label_column: str | None = None
    image_column: str = "image"
    alt_text_column: str = "alt_text"


def build_evaluation(
    evaluation: EvaluationData, processor: MofiProcessor, entities: EntityTable | None, args: MofiTrainingArguments
) -> RetrievalEvaluation:
    """Makes the evaluation that runs while training."""
    if isinstance(evaluation.data, datasets.Dataset):
        rows = DatasetRows(evaluation.data, {evaluation.image_column: "image"})
    else:
        rows = ParquetRows(find_parquet_files(str(evaluation.data), split="validation"), {})
    names = rows.schemas[0].names
    is_build = evaluation.label_column is None and "entity_labels" in names
    label_column = evaluation.label_column or ("entity_labels" if is_build else "label")
    columns = {evaluation.image_column: "image", label_column: "label"}
    columns |= {evaluation.alt_text_column: "alt_text"} if evaluation.alt_text_column in names else {}
    # Labels of another build stand for other entities.
    is_same = is_build and entities is not None and entities.is_build_of(rows)
    return RetrievalEvaluation(
        rows.with_columns(columns),
        processor,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        entities=entities if is_same else None,
    )
