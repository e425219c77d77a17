"""Writes everything that is made from the entity table."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_scripts.knowledge_base.graph_embeddings import embed_from_graph, read_biggraph_embeddings
from data_scripts.knowledge_base.links import iterate_values, link_arrays, link_table
from data_scripts.knowledge_base.store import CASELESS, COMMON, PROPER
from data_scripts.knowledge_base.write_aliases import read_anchor_counts, save, write_alias_table
from data_scripts.text.description_tokens import token_norms, token_table
from data_scripts.text.tokens import HASH_BITS
from data_scripts.text.word_case import lower_odds_table


def write_arrays(folder: Path, table: pa.Table, *, anchor_counts: str | None, embeddings_path: str | None) -> None:
    """Writes everything that is made from the entity table."""
    ids = table["entity_id"].to_pylist()
    id_order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int32)
    save(folder, "id_order", id_order)
    save(folder, "entity_ids", np.array([entity_id.encode() for entity_id in ids], dtype=np.bytes_))
    names = table["name"].to_pylist()
    save(folder, "is_proper", np.array([spelling(name) for name in names], dtype=np.int8))
    sitelinks = table["num_sitelinks"].to_numpy().astype(np.float32)
    anchors = read_anchor_counts(anchor_counts) if anchor_counts else None
    write_alias_table(folder, names, table["aliases"], sitelinks=sitelinks, ids=ids, anchors=anchors)
    tokens = token_table(table)
    frequency = np.bincount(tokens[1], minlength=1 << HASH_BITS)
    weights = np.log((1 + len(ids)) / (1 + frequency)).astype(np.float32)
    save(folder, "token_offsets", tokens[0])
    save(folder, "tokens", tokens[1])
    save(folder, "inverse_frequency", weights)
    save(folder, "description_norms", token_norms(tokens, weights))
    save(folder, "popularity", popularity(sitelinks))
    save(folder, "lower_odds", lower_odds_table(filter(None, iterate_values(table["description"]))))
    links = link_table(table, ids)
    for name, array in link_arrays(links).items():
        save(folder, name, array)
    if embeddings_path:
        embeddings = read_biggraph_embeddings(embeddings_path, ids)
    else:
        embeddings = embed_from_graph(links, tokens, inverse_frequency=weights)
    save(folder, "embeddings", embeddings)


def popularity(sitelinks: np.ndarray) -> np.ndarray:
    """Minus the log of the share of entities with more sitelinks, ties halved; 0 where all have as many, float32.

    A rank, not a count: sitelinks, page views and incoming links have scales of their own.
    """
    ordered = np.sort(sitelinks)
    below = np.searchsorted(ordered, sitelinks, "left") + np.searchsorted(ordered, sitelinks, "right")
    if ordered[0] == ordered[-1]:
        return np.zeros(len(sitelinks), np.float32)
    return -np.log1p(-below / (2 * len(sitelinks))).astype(np.float32)


def spelling(name: str) -> int:
    """Whether a name is written as a proper noun, a common noun, or in a script without case."""
    first = next((character for character in name if character.isalpha()), "")
    if first.lower() == first.upper():
        return CASELESS
    return PROPER if any(character.isupper() for character in name) else COMMON
