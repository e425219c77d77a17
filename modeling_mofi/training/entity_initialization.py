"""First values of the entity head's rows: those of a trained head where it knows the entity, else its text's."""

import logging
import os
from pathlib import Path

import pyarrow.compute as pc
import torch
from tqdm.auto import tqdm

from ..data.entity_table import EntityTable
from ..distributed_mofi import process_place
from ..pretraining import HEAD_NAME, MofiForPreTraining, head_folder
from ..processing_mofi import MofiProcessor
from ..sharded_rows import num_saved_rows, row_blocks
from ..towers_mofi import unit_length


logger = logging.getLogger(__name__)

ROWS_PER_READ = 65_536
TEXTS_PER_BATCH = 256


@torch.no_grad()
def initialize_rows(
    model: MofiForPreTraining,
    entities: EntityTable,
    processor: MofiProcessor,
    *,
    init_from: str | os.PathLike | None,
    from_texts: bool,
) -> None:
    """Fills this process's rows of a new head; rows that nothing is known about stay random.

    Args:
        entities: Those of the new head, in the order of its rows.
        init_from: Checkpoint whose head and entities.parquet may know some of them. Its labels need not be these:
            rows are found by entity_id, so new entities may have been added and rare ones dropped.
        from_texts: Whether the others begin as the text tower's embedding of name and description.

    Raises:
        ValueError: If the two heads' rows differ in size, or if there are to be texts and no text tower.
    """
    if from_texts and model.mofi.text_model is None:
        raise ValueError("entity_init is 'text', but the model has no text tower. Set --entity_init random.")
    head = model.entity_head
    is_known = torch.zeros(len(head.weight), dtype=torch.bool)
    if init_from is not None and (folder := head_folder(init_from)) is not None:
        is_known = copy_known_rows(model, entities, folder)
    if from_texts and not is_known.all():
        missing = (~is_known).nonzero().squeeze(1)
        for chunk in tqdm(missing.split(TEXTS_PER_BATCH), desc="Entity texts", disable=process_place()[0] > 0):
            head.weight[chunk] = embed_entities(model, entities, processor, (chunk + head.first_row).tolist())


def copy_known_rows(model: MofiForPreTraining, entities: EntityTable, folder: str | os.PathLike) -> torch.Tensor:
    """Copies rows of a saved head to this process's rows of the same entity_id; returns which, `[rows]`."""
    head = model.entity_head
    saved_rows = saved_labels(entities, Path(folder))[head.first_row : head.end_row]  # [rows]
    for start, tensors in row_blocks(folder, name=HEAD_NAME, block_size=ROWS_PER_READ):
        block = tensors["weight"]
        if block.shape[1] != head.weight.shape[1]:
            raise ValueError(
                f"The head in {folder} has rows of size {block.shape[1]}, this model's have {head.weight.shape[1]}."
            )
        own = ((saved_rows >= start) & (saved_rows < start + len(block))).nonzero().squeeze(1)
        head.weight[own] = block[saved_rows[own] - start].to(head.weight)
    is_known = saved_rows >= 0
    logger.info("entity head: %s of %s own rows from %s", f"{int(is_known.sum()):,}", f"{len(is_known):,}", folder)
    return is_known


def saved_labels(entities: EntityTable, folder: Path) -> torch.Tensor:
    """Label in a checkpoint of each entity, -1 where it has none, `[C]`."""
    num_rows = num_saved_rows(folder, name=HEAD_NAME)
    if not (folder / "entities.parquet").is_file():
        if num_rows != len(entities):
            logger.warning("%s has no entities.parquet that would say what its head's rows are: new rows", folder)
            return torch.full((len(entities),), -1)
        return torch.arange(len(entities))
    known = EntityTable(folder / "entities.parquet").columns["entity_id"]
    labels = pc.index_in(entities.columns["entity_id"], value_set=known).fill_null(-1)
    return torch.from_numpy(labels.to_numpy().copy()).long()


def embed_entities(
    model: MofiForPreTraining, entities: EntityTable, processor: MofiProcessor, labels: list[int]
) -> torch.Tensor:
    """Unit-length embeddings of entities' names and descriptions by the text tower, `[labels, D]`."""
    chosen = [entities[label] for label in labels]
    inputs = processor.encode_entities([row["name"] for row in chosen], [row["description"] for row in chosen])
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return unit_length(model.mofi.get_text_features(**inputs, return_dict=True).pooler_output)
