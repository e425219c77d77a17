"""Makes what a trainer needs out of names and datasets: model, processor, rows, collator and evaluation."""

from pathlib import Path
from typing import Any

from ..data.entity_table import EntityTable
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor
from .arguments import MofiTrainingArguments
from .entity_initialization import initialize_rows
from .model_building import ModelArguments, build_model, has_texts, load_processor, view_size
from .training_data import (
    Data,
    EvaluationData,
    build_collator,
    build_evaluation,
    find_entities,
    load_entities,
    open_data,
    training_dataset,
)


def assemble(
    model: MofiForPreTraining | ModelArguments | str | Path,
    args: MofiTrainingArguments,
    *,
    train_dataset: Data,
    eval_dataset: Data | EvaluationData | None = None,
    entities: str | Path | None = None,
    processing_class: MofiProcessor | None = None,
    keep_decoded: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of a trainer; those here are as for `MofiTrainer`."""
    rows = open_data(train_dataset, args)
    table = load_entities(find_entities(train_dataset, entities), rows, args)
    if isinstance(model, (str, Path)):
        model = ModelArguments(init_from=str(model))
        model.entity_init = "text" if has_texts(model) else "random"
    if isinstance(model, ModelArguments):
        processing_class = processing_class or load_processor(model)
        model = new_model(model, processing_class, args, table)
    elif processing_class is None:
        raise ValueError("A model that is in memory needs its processor: give processing_class.")
    check_head(model, table, args)
    image_size = view_size(model.config, processing_class.image_processor)
    evaluation = eval_dataset
    if evaluation is not None:
        evaluation = evaluation if isinstance(evaluation, EvaluationData) else EvaluationData(evaluation)
        evaluation = build_evaluation(evaluation, processing_class, table, args)
    return {
        "model": model,
        "train_dataset": training_dataset(rows, args, image_size=image_size, keep_decoded=keep_decoded),
        "eval_dataset": None if evaluation is None else evaluation.rows,
        "evaluate_model": evaluation,
        "data_collator": build_collator(processing_class, model.config, table, args),
        # The Trainer would look for special tokens in a processor without a tokenizer.
        "processing_class": processing_class if model.config.has_text_tower else processing_class.image_processor,
        "entities_path": None if table is None else table.path,
    }


def new_model(
    model_args: ModelArguments, processor: MofiProcessor, args: MofiTrainingArguments, entities: EntityTable | None
) -> MofiForPreTraining:
    """Builds the model, and fills its head unless a checkpoint will."""
    model = build_model(model_args, processor, args, num_entities=0 if entities is None else len(entities))
    if model.entity_head is not None and not args.resume_from_checkpoint:
        model.to(args.device)
        from_texts = model_args.entity_init == "text"
        initialize_rows(model, entities, processor, init_from=model_args.init_from, from_texts=from_texts)
    return model


def check_head(model: MofiForPreTraining, entities: EntityTable | None, args: MofiTrainingArguments) -> None:
    """Refuses a model whose head is not of the dataset's entities.

    Raises:
        ValueError: With both numbers.
    """
    if args.recipe == "contrastive":
        return
    found = 0 if model.entity_head is None else model.entity_head.num_entities
    if found != len(entities):
        raise ValueError(
            f"The model has a head of {found} entities, the dataset has {len(entities)}. Give the checkpoint's name "
            "instead of the model: a head of the right size is then made, and keeps the rows of known entities."
        )
