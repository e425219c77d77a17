"""Embeds the texts of the entities that the text phase found, once per model and template, for the image phase."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.engine.files import write_array
from data_scripts.images.filter_model import embed_texts
from data_scripts.knowledge_base.store import open_knowledge_base
from modeling_mofi.whole_files import read_json, write_json, write_whole


BATCH_SIZE = 256
BATCHES_PER_BLOCK = 64
BLOCK_SIZE = BATCH_SIZE * BATCHES_PER_BLOCK


def entity_text(name: str, description: str, *, template: str) -> str:
    """The text of an entity, from a template such as `{name}, {description}`; the name alone without one."""
    return template.format(name=name, description=description) if description else name


@dataclass(frozen=True)
class EmbedBlock:
    """Everything a worker needs to embed some of the entities; a call does it and writes them.

    Attributes:
        folder: Has `entity_ids.json`; gets a file for each block of them.
        template: Text of an entity.
    """

    folder: Path
    knowledge_base: str
    filter_model: str
    template: str
    name: str = "embed_entities"

    def path(self, block: int) -> Path:
        """File of a block."""
        return self.folder / f"block-{block:05d}.npy"

    def is_done(self, block: int) -> bool:
        """Whether a block is embedded."""
        return self.path(block).is_file()

    def __call__(self, block: int) -> None:
        kb = open_knowledge_base(self.knowledge_base)
        entity_ids = read_json(self.folder / "entity_ids.json")[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
        rows = kb.rows_of(entity_ids).tolist()
        pairs = zip(kb.column("name", rows), kb.column("description", rows), strict=True)
        texts = [entity_text(name, description, template=self.template) for name, description in pairs]
        batches = [texts[first : first + BATCH_SIZE] for first in range(0, len(texts), BATCH_SIZE)]
        write_array(
            self.path(block), np.concatenate([embed_texts(batch, filter_model=self.filter_model) for batch in batches])
        )


def write_entity_ids(entity_ids: Iterable[str], folder: Path) -> None:
    """Writes the entities that are to be embedded in the order of their ids: who found them first does not matter."""
    write_json(folder / "entity_ids.json", sorted(set(entity_ids)))


def embed_entities(job: EmbedBlock, *, run: Callable[[EmbedBlock, Sequence[int]], None]) -> None:
    """Embeds the entities of `entity_ids.json` in fixed batches, whoever asks for them.

    Args:
        run: Calls a job on blocks and returns when they are done.
    """
    num_entities = len(read_json(job.folder / "entity_ids.json"))
    run(job, range(-(-num_entities // BLOCK_SIZE)))


def join_blocks(job: EmbedBlock) -> None:
    """Writes `embeddings.npy` (float32 [entities, D]) from the blocks, a block in memory at a time."""
    paths = sorted(job.folder.glob("block-*.npy"))
    shapes = [np.load(path, mmap_mode="r").shape for path in paths]
    with write_whole(job.folder / "embeddings.npy") as temporary:
        shape = (sum(rows for rows, _ in shapes), shapes[0][1])
        joined = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        first = 0
        for path, (rows, _) in zip(paths, shapes, strict=True):
            joined[first : first + rows] = np.load(path)
            first += rows
        joined.flush()
    open_text_embeddings.cache_clear()


@lru_cache(maxsize=2)
def open_text_embeddings(folder: str) -> tuple[np.ndarray, dict[str, int]]:
    """Text embeddings, memory-mapped [entities, D], and the row of each entity id."""
    ordered = read_json(Path(folder) / "entity_ids.json")
    vectors = np.load(Path(folder) / "embeddings.npy", mmap_mode="r")
    return vectors, {entity_id: row for row, entity_id in enumerate(ordered)}
