"""Writes everything that is made from the entity table; what a stopped build has made is not made again."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from data_scripts.engine.engines import Engine, run_job
from data_scripts.engine.files import write_array
from data_scripts.engine.jobs import single
from data_scripts.knowledge_base.anchors import write_anchor_counts
from data_scripts.knowledge_base.array_pieces import offset_pieces, read_each, write_pieces
from data_scripts.knowledge_base.biggraph_embeddings import read_biggraph_embeddings
from data_scripts.knowledge_base.entity_chunks import list_chunks, names_job, words_job
from data_scripts.knowledge_base.graph_embeddings import write_graph_embeddings
from data_scripts.knowledge_base.write_aliases import SHARD_GIGABYTES, aliases_job, join_shards, plan_shards
from data_scripts.text.tokens import HASH_BITS
from data_scripts.text.word_case import log_odds


def write_arrays(
    folder: Path,
    scratch: Path,
    *,
    engine: Engine,
    config_hash: str,
    anchor_counts: str | None,
    embeddings_path: str | None,
    memory_gigabytes: float,
) -> None:
    """Writes everything that is made from the entity table.

    Args:
        scratch: Folder for what is only needed until all is written.
    """
    entities = folder / "entities.arrow"
    chunks = list_chunks(entities)
    names = names_job(entities, scratch, config_hash=config_hash)
    words = words_job(entities, scratch, config_hash=config_hash)
    for job in (names, words):
        run_job(job, single(chunks), engine=engine)
    anchors = None
    if anchor_counts:
        anchors = scratch / "anchors.parquet"
        write_anchor_counts(anchors, anchor_counts, map_array(folder, "entity_ids"), map_array(folder, "id_order"))
    shards = plan_shards([names.path(chunk) for chunk in chunks])
    aliases = aliases_job([names.path(chunk) for chunk in chunks], anchors, scratch, config_hash=config_hash)
    num_processes = max(1, int(memory_gigabytes / SHARD_GIGABYTES))
    is_enough = num_processes >= engine.num_processes
    with nullcontext(engine) if is_enough else Engine(num_processes=num_processes) as workers:
        run_job(aliases, single(shards), engine=workers)
    join_shards(folder, shards, [aliases.path(shard) for shard in shards])
    write_words(folder, [words.path(chunk) for chunk in chunks])
    if embeddings_path:
        ids = [entity_id.decode() for entity_id in map_array(folder, "entity_ids").tolist()]
        write_array(folder / "embeddings.npy", read_biggraph_embeddings(embeddings_path, ids))
        return
    write_graph_embeddings(
        folder / "embeddings.npy",
        (map_array(folder, "link_offsets"), map_array(folder, "link_targets")),
        (map_array(folder, "token_offsets"), map_array(folder, "tokens")),
        inverse_frequency=map_array(folder, "inverse_frequency"),
        scratch=scratch,
        num_threads=engine.num_processes,
    )


def write_words(folder: Path, files: list[Path]) -> None:
    """Writes the arrays of the words of names and descriptions out of those of the chunks."""
    write_pieces(folder / "token_offsets.npy", offset_pieces(read_each(files, "num_tokens")), np.int64)
    write_pieces(folder / "tokens.npy", read_each(files, "tokens"), np.int32)
    num_entities = write_pieces(folder / "is_proper.npy", read_each(files, "is_proper"), np.int8)
    frequency = sum_up(np.bincount(tokens, minlength=1 << HASH_BITS) for tokens in read_each(files, "tokens"))
    weights = np.log((1 + num_entities) / (1 + frequency)).astype(np.float32)
    write_array(folder / "inverse_frequency.npy", weights)
    write_pieces(folder / "description_norms.npy", (token_norms(path, weights) for path in files), np.float32)
    lower, capital = (sum_up(read_counts(path, name) for path in files) for name in ("lower", "capital"))
    write_array(folder / "lower_odds.npy", log_odds(lower, capital))


def token_norms(path: Path, weights: np.ndarray) -> np.ndarray:
    """Length of the vector of each entity's weighted tokens, float32, [entities of a chunk]."""
    with np.load(path) as arrays:
        number, tokens = arrays["num_tokens"], arrays["tokens"]
    owner = np.repeat(np.arange(len(number)), number)
    return np.sqrt(np.bincount(owner, weights=weights[tokens].astype(np.float64) ** 2, minlength=len(number)))


def read_counts(path: Path, name: str) -> np.ndarray:
    """How often a chunk writes each hashed word in a case, [2**20]."""
    counts = np.zeros(1 << HASH_BITS, np.int64)
    with np.load(path) as arrays:
        counts[arrays["words"]] = arrays[name]
    return counts


def sum_up(arrays: Iterator[np.ndarray]) -> np.ndarray:
    """The sum of arrays, [2**20]."""
    total = np.zeros(1 << HASH_BITS, np.int64)
    for array in arrays:
        total += array
    return total


def map_array(folder: Path, name: str) -> np.ndarray:
    """One array of the knowledge base, mapped where it is not empty."""
    path = folder / f"{name}.npy"
    array = np.load(path, mmap_mode="r")
    return array.view(np.ndarray) if array.size else np.load(path)
