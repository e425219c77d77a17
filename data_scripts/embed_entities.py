"""Embeds the texts of the entities that the text phase found, once per model and template, for the image phase."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.files import read_json, write_json, write_whole
from data_scripts.filter_model import embed_texts
from data_scripts.knowledge_base import open_knowledge_base


BATCH_SIZE = 256


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
    parts = []
    for first in range(0, len(ordered), BATCH_SIZE):
        chunk = rows[first : first + BATCH_SIZE].tolist()
        pairs = zip(kb.column("name", chunk), kb.column("description", chunk), strict=True)
        texts = [entity_text(name, description, template=template) for name, description in pairs]
        parts.append(embed_texts(texts, filter_model=filter_model))
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
