"""Writes the alias table: a trie of keys, and each key's entities with their priors."""

from collections.abc import Iterable
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa

from data_scripts.engine.files import write_array
from data_scripts.knowledge_base.links import iterate_values
from data_scripts.knowledge_base.store import ONLY_CAPITALS, OWN_NAME
from data_scripts.text.tokens import MAX_KEY_LENGTH, alias_key
from modeling_mofi.whole_files import write_whole


MAX_CANDIDATES = 64
# Sitelinks that stand for a quarter of an anchor, where anchors are counted and an entity has none.
ANCHOR_SITELINKS = 20


def save(folder: Path, name: str, array: np.ndarray) -> None:
    """Writes one array of the knowledge base."""
    write_array(folder / f"{name}.npy", array)


def write_alias_table(
    folder: Path,
    names: list[str],
    aliases: pa.ChunkedArray,
    *,
    sitelinks: np.ndarray,
    ids: list[str],
    anchors: dict[tuple[str, str], int] | None,
) -> None:
    """Writes the trie of alias keys and, per alias, its candidates with their priors, most probable first."""
    keys: list[str] = []
    rows: list[int] = []
    weights: list[float] = []
    forms: list[int] = []
    for row, alias_list in enumerate(iterate_values(aliases)):
        for key, form in entity_keys(names[row], alias_list).items():
            # Counts of anchors where there are any; sitelinks tell the others of an alias apart, below one count.
            weight = sitelinks[row] + 1
            if anchors is not None:
                weight = anchors.get((key, ids[row]), 0) + 0.5 * weight / (weight + ANCHOR_SITELINKS)
            keys.append(key)
            rows.append(row)
            weights.append(weight)
            forms.append(form)
    trie = marisa_trie.Trie(keys)
    with write_whole(folder / "aliases.marisa") as temporary:
        trie.save(str(temporary))
    alias_index = np.fromiter((trie.key_id(key) for key in keys), dtype=np.int64, count=len(keys))
    pairs = (alias_index, np.array(rows, np.int32), np.array(weights, np.float32), np.array(forms, np.int8))
    save_candidates(folder, pairs, num_aliases=len(trie))


def save_candidates(folder: Path, pairs: tuple[np.ndarray, ...], *, num_aliases: int) -> None:
    """Sorts the (alias, entity) pairs by alias, then weight; keeps the likeliest; turns weights into priors."""
    alias_index, rows, weights, forms = pairs
    order = np.lexsort((rows, -weights, alias_index))
    alias_index, rows, weights, forms = alias_index[order], rows[order], weights[order], forms[order]
    starts = np.searchsorted(alias_index, np.arange(num_aliases + 1))
    rank = np.arange(len(rows)) - starts[alias_index] if len(rows) else np.zeros(0, np.int64)
    kept = rank < MAX_CANDIDATES
    alias_index, rows, weights, forms = alias_index[kept], rows[kept], weights[kept], forms[kept]
    totals = np.bincount(alias_index, weights=weights, minlength=num_aliases)
    save(folder, "candidate_offsets", np.searchsorted(alias_index, np.arange(num_aliases + 1)).astype(np.int64))
    save(folder, "candidate_entities", rows)
    save(folder, "candidate_forms", forms)
    save(folder, "candidate_priors", (weights / totals[alias_index]).astype(np.float32))


def entity_keys(name: str, aliases: Iterable[str]) -> dict[str, int]:
    """The distinct keys of an entity, and the bits of `candidate_forms` of each."""
    own = alias_key(name)
    forms: dict[str, int] = {}
    for alias in (name, *aliases):
        key = alias_key(alias)
        if key and len(key) <= MAX_KEY_LENGTH:
            written = ONLY_CAPITALS if len(key) > 1 and alias.isupper() else 0
            forms[key] = forms.get(key, ONLY_CAPITALS) & written
    return {key: form | (OWN_NAME if key == own else 0) for key, form in forms.items()}


def read_anchor_counts(path: str) -> dict[tuple[str, str], int]:
    """Reads `alias <tab> entity_id <tab> count`.

    Raises:
        ValueError: If a line has another form.
    """
    counts: dict[tuple[str, str], int] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 3 or not fields[2].isdigit():
                raise ValueError(f"{path} line {number}: expected `alias <tab> entity_id <tab> count`, got {line!r}")
            pair = (alias_key(fields[0]), fields[1])
            counts[pair] = counts.get(pair, 0) + int(fields[2])
    return counts
