"""Embeds the texts of the entities that the text phase found, once per model and template, for the image phase."""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_scripts.engine.files import save_array
from data_scripts.engine.jobs import Job, Part, Steps, one_by_one, single
from data_scripts.images.filter_model import embed_texts
from data_scripts.knowledge_base.store import open_knowledge_base


BATCH_SIZE = 256
BATCHES_PER_BLOCK = 64
BLOCK_SIZE = BATCH_SIZE * BATCHES_PER_BLOCK


def entity_text(name: str, description: str, *, template: str) -> str:
    """The text of an entity, from a template such as `{name}, {description}`; the name alone without one."""
    return template.format(name=name, description=description) if description else name


def embed_entities(
    linked: Iterable[Path], folder: Path, *, knowledge_base: str, filter_model: str, template: str
) -> Steps[int]:
    """Embeds all candidates of the text phase in fixed blocks, whoever does them; returns how many there are.

    Args:
        linked: Files of the text phase.
        folder: Gets `entity_ids.npy` and `embeddings.npy`; its name is that of the entities, the model and template.
    """
    options = {"suffix": ".npy", "is_short": True}
    listed, joined = Part("entity_ids"), Part("embeddings")
    listing = Job("list_entities", folder, folder.name, partial(one_by_one, partial(list_entities, linked)), **options)
    yield listing, single([listed])
    num_entities = len(np.load(listing.path(listed), mmap_mode="r"))
    embed = partial(
        embed_block,
        entity_ids=listing.path(listed),
        knowledge_base=knowledge_base,
        filter_model=filter_model,
        template=template,
    )
    embedding = Job("embed_entities", folder, folder.name, partial(one_by_one, embed), uses_gpu=True, **options)
    blocks = [Part(f"block-{index:05d}", index) for index in range(-(-num_entities // BLOCK_SIZE))]
    yield embedding, single(blocks)
    join = partial(one_by_one, partial(join_blocks, [embedding.path(block) for block in blocks]))
    yield Job("join_embeddings", folder, folder.name, join, **options), single([joined])
    return num_entities


def list_entities(linked: Iterable[Path], _: Part, path: Path) -> None:
    """Writes the ids of all candidates in their order: who found them first does not matter."""
    found: set[str] = set()
    for file in linked:
        column = pq.read_table(file, columns=["candidates"])["candidates"]
        found.update(pc.struct_field(pc.list_flatten(column), "entity_id").unique().to_pylist())
    save_array(path, np.array([entity_id.encode() for entity_id in sorted(found)], dtype=np.bytes_))


def embed_block(
    block: Part, path: Path, *, entity_ids: Path, knowledge_base: str, filter_model: str, template: str
) -> None:
    """Writes the embeddings of a block of entities, float32 [BLOCK_SIZE, D]."""
    kb = open_knowledge_base(knowledge_base)
    listed = np.load(entity_ids, mmap_mode="r")[block.index * BLOCK_SIZE : (block.index + 1) * BLOCK_SIZE]
    rows = kb.rows_of([entity_id.decode() for entity_id in listed.tolist()]).tolist()
    pairs = zip(kb.column("name", rows), kb.column("description", rows), strict=True)
    texts = [entity_text(name, description, template=template) for name, description in pairs]
    batches = [texts[first : first + BATCH_SIZE] for first in range(0, len(texts), BATCH_SIZE)]
    save_array(path, np.concatenate([embed_texts(batch, filter_model=filter_model) for batch in batches]))


def join_blocks(blocks: list[Path], _: Part, path: Path) -> None:
    """Writes the embeddings of all entities, float32 [entities, D], a block in memory at a time."""
    shapes = [np.load(block, mmap_mode="r").shape for block in blocks]
    shape = (sum(rows for rows, _ in shapes), shapes[0][1])
    joined = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    first = 0
    for block, (rows, _) in zip(blocks, shapes, strict=True):
        joined[first : first + rows] = np.load(block)
        first += rows
    joined.flush()


@lru_cache(maxsize=2)
def open_text_embeddings(folder: str) -> tuple[np.ndarray, dict[str, int]]:
    """Text embeddings, memory-mapped [entities, D], and the row of each entity id."""
    entity_ids = np.load(Path(folder) / "entity_ids.npy").tolist()
    vectors = np.load(Path(folder) / "embeddings.npy", mmap_mode="r")
    return vectors, {entity_id.decode(): row for row, entity_id in enumerate(entity_ids)}
