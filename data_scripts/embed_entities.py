"""Embeds the texts of the entities that the text phase found, once per model and template, for the image phase."""

import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

import modeling_mofi  # noqa: F401 - registers MOFI with AutoModel and AutoProcessor
from data_scripts.files import read_json, write_json, write_whole
from data_scripts.knowledge_base import open_knowledge_base


BATCH_SIZE = 256


@dataclass(frozen=True)
class FilterModel:
    """A CLIP-like model and its processor, ready to use."""

    model: torch.nn.Module
    processor: object
    device: torch.device

    def embed(self, features: object) -> np.ndarray:
        """Projected features of `get_image_features` or `get_text_features` as unit vectors, float32 [B, D]."""
        # transformers 5 returns an output, earlier ones and some custom models the tensor itself.
        tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
        return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()


@lru_cache(maxsize=1)
def open_filter_model(name: str) -> FilterModel:
    """Loads a dual encoder by name or path; on a GPU, if there is one, in bfloat16; from safetensors alone.

    Raises:
        ValueError: If the model has no `get_image_features` and `get_text_features`.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Workers of a pool are numbered from 1; each takes the next GPU.
        number = (multiprocessing.current_process()._identity or (1,))[0] - 1
        device = torch.device("cuda", number % torch.cuda.device_count())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True).to(device).eval()
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"filter_model {name} is a {type(model).__name__}, which does not embed images and texts in one space; "
            "CLIP, SigLIP and MOFI do"
        )
    return FilterModel(model, AutoProcessor.from_pretrained(name), device)


@torch.inference_mode()
def embed_texts(texts: Sequence[str], filter_model: FilterModel) -> np.ndarray:
    """Unit vectors of texts, float32 [len(texts), D]."""
    # SigLIP was trained on texts padded to full length and embeds others differently.
    padding = "max_length" if "siglip" in filter_model.model.config.model_type else True
    inputs = filter_model.processor(text=list(texts), padding=padding, truncation=True, return_tensors="pt")
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: inputs[name].to(filter_model.device) for name in names if name in inputs}
    return filter_model.embed(filter_model.model.get_text_features(**inputs))


def entity_text(name: str, description: str, *, template: str) -> str:
    """The text of an entity, from a template such as `{name}, {description}`; the name alone without one."""
    return template.format(name=name, description=description) if description else name


def embed_entities(
    entity_ids: Iterable[str], *, knowledge_base: str, filter_model: str, template: str, folder: Path
) -> None:
    """Writes the text embeddings of entities, in the order of their ids and in fixed batches.

    The numbers then do not depend on who asks, or in which order the entities were found.

    Args:
        entity_ids: Entities in any order, repeats allowed.
        folder: Gets `embeddings.npy` (float32 [entities, D]) and `entity_ids.json`.
    """
    kb = open_knowledge_base(knowledge_base)
    ordered = sorted(set(entity_ids))
    rows = kb.rows_of(ordered)
    model = open_filter_model(filter_model)
    parts = []
    for first in range(0, len(ordered), BATCH_SIZE):
        chunk = rows[first : first + BATCH_SIZE].tolist()
        pairs = zip(kb.column("name", chunk), kb.column("description", chunk), strict=True)
        texts = [entity_text(name, description, template=template) for name, description in pairs]
        parts.append(embed_texts(texts, model))
    with write_whole(folder / "embeddings.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(parts) if parts else np.zeros((0, 1), np.float32))
    write_json(folder / "entity_ids.json", ordered)
    open_text_embeddings.cache_clear()


@lru_cache(maxsize=2)
def open_text_embeddings(folder: str) -> tuple[np.ndarray, dict[str, int]]:
    """Text embeddings, memory-mapped [entities, D], and the row of each entity id."""
    ordered = read_json(Path(folder) / "entity_ids.json")
    vectors = np.load(Path(folder) / "embeddings.npy", mmap_mode="r" if ordered else None)
    return vectors, {entity_id: row for row, entity_id in enumerate(ordered)}
