"""Writes the alias table: tries of keys, and each key's entities with their priors.

The keys are cut by their first characters into shards that a worker can sort and build in a bounded memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import marisa_trie
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_scripts.engine.files import save_arrays
from data_scripts.engine.jobs import Job, one_by_one
from data_scripts.knowledge_base.alias_tries import alias_file
from data_scripts.knowledge_base.array_pieces import offset_pieces, read_each, write_pieces
from data_scripts.knowledge_base.database import limits_named, quote
from modeling_mofi.whole_files import write_whole


MAX_CANDIDATES = 64
# Sitelinks that stand for a quarter of an anchor, where anchors are counted and an entity has none.
ANCHOR_SITELINKS = 20
# Keys and entities of a shard. A worker needs some 250 bytes for each, most of it while the trie is made.
MAX_PAIRS = 4_000_000
SHARD_GIGABYTES = 1.0
SORT_MEMORY = "400MB"


@dataclass(frozen=True)
class AliasShard:
    """The keys from one on and before another; together they have all that begin with some characters.

    Attributes:
        index: From 0.
        first: The first character of the range.
        last: The first character that is beyond the range; None if there is no end.
    """

    index: int
    first: str
    last: str | None

    @property
    def name(self) -> str:
        """That of its file."""
        return f"{self.index:06d}"


def plan_shards(names: Sequence[Path]) -> list[AliasShard]:
    """Cuts the keys into shards; a character with more than `MAX_PAIRS` has one of its own."""
    query = f"SELECT left(key, 1), count(*) FROM read_parquet({quote(names)}) GROUP BY ALL ORDER BY ALL"
    with duckdb.connect(config={"memory_limit": SORT_MEMORY}) as connection:
        counts = connection.execute(query).fetchall()
    starts, num_pairs = ["\0"], 0
    for character, count in counts:
        if num_pairs and num_pairs + count > MAX_PAIRS:
            starts.append(character)
            num_pairs = 0
        num_pairs += count
    return [AliasShard(i, *ends) for i, ends in enumerate(zip(starts, [*starts[1:], None], strict=True))]


def aliases_job(names: Sequence[Path], anchors: Path | None, folder: Path, *, config_hash: str) -> Job:
    """Makes the trie and the candidates of each shard."""
    work = partial(one_by_one, partial(write_shard, names, anchors, folder / "spilled"))
    return Job("aliases", folder / "aliases", config_hash, work, suffix=".npz")


def write_shard(names: Sequence[Path], anchors: Path | None, spilled: Path, shard: AliasShard, path: Path) -> None:
    """Writes the trie of a shard as bytes, and per alias its candidates with their priors, most probable first."""
    pairs = sort_pairs(names, anchors, spilled, shard)
    keys = pairs["key"].combine_chunks()
    is_new = np.ones(len(keys), bool)
    is_new[1:] = pc.not_equal(keys.slice(1), keys.slice(0, max(0, len(keys) - 1))).to_numpy(zero_copy_only=False)
    distinct = keys.filter(pa.array(is_new))
    rows, weights, forms = (pairs[name].to_numpy() for name in ("row", "weight", "form"))
    del keys, pairs
    trie = marisa_trie.Trie(iterate_texts(distinct))
    key_ids = np.fromiter(map(trie.key_id, iterate_texts(distinct)), np.int32, len(distinct))
    aliases = key_ids[np.cumsum(is_new) - 1] if len(is_new) else key_ids
    save_arrays(
        path,
        trie=np.frombuffer(trie.tobytes(), np.uint8),
        num_aliases=np.int64(len(trie)),
        **choose_candidates(aliases, np.flatnonzero(is_new), rows, weights, forms, num_aliases=len(trie)),
    )


def sort_pairs(names: Sequence[Path], anchors: Path | None, spilled: Path, shard: AliasShard) -> pa.Table:
    """The (key, entity) pairs of a shard in the order of key, descending weight and entity."""
    bounds = "key >= $first" + (" AND key < $last" if shard.last else "")
    parameters = {"first": shard.first} | ({"last": shard.last} if shard.last else {})
    pairs, weight = f"(FROM read_parquet({quote(names)}) WHERE {bounds})", "weight"
    if anchors is not None:
        # Counts of anchors where there are any; sitelinks tell the others of an alias apart, below one count.
        counts = f"SELECT key, row, sum(number) AS number FROM read_parquet({quote([anchors])}) WHERE {bounds}"
        pairs = f"{pairs} LEFT JOIN ({counts} GROUP BY ALL) USING (key, row)"
        weight = f"(coalesce(number, 0)::FLOAT + 0.5::FLOAT * weight / (weight + {ANCHOR_SITELINKS}::FLOAT))::FLOAT"
    settings = {"memory_limit": SORT_MEMORY, "threads": 1, "temp_directory": str(spilled)}
    query = f"SELECT key, row, {weight} AS weight, form FROM {pairs} ORDER BY key, weight DESC, row"
    with duckdb.connect(config=settings) as connection, limits_named(spilled):
        return connection.sql(query, params=parameters).to_arrow_table()


def iterate_texts(texts: pa.Array, size: int = 100_000) -> Iterator[str]:
    """The texts, some in memory at a time."""
    for first in range(0, len(texts), size):
        yield from texts.slice(first, size).to_pylist()


def choose_candidates(
    aliases: np.ndarray,
    starts: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    forms: np.ndarray,
    *,
    num_aliases: int,
) -> dict[str, np.ndarray]:
    """Keeps the likeliest candidates of each alias, turns weights into priors, and sorts by alias.

    Args:
        aliases: Alias of each pair; those of one alias are together, in the order of their weight, [P].
        starts: The first pair of each alias, in the order of the pairs.
    """
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
    kept = np.flatnonzero(rank < MAX_CANDIDATES)
    order = kept[np.argsort(aliases[kept], kind="stable")]
    aliases, weights = aliases[order], weights[order]
    totals = np.bincount(aliases, weights=weights, minlength=num_aliases)
    return {
        "number": np.bincount(aliases, minlength=num_aliases).astype(np.uint8),
        "candidate_entities": rows[order],
        "candidate_forms": forms[order],
        "candidate_priors": (weights / totals[aliases]).astype(np.float32),
    }


def join_shards(folder: Path, shards: Sequence[AliasShard], files: Sequence[Path]) -> None:
    """Writes the tries and arrays of the knowledge base out of those of the shards."""
    for old in folder.glob("aliases*.marisa"):
        old.unlink()
    first_aliases = [0]
    for shard, path in zip(shards, files, strict=True):
        with np.load(path) as arrays:
            with write_whole(folder / alias_file(shard.index, len(shards))) as temporary:
                temporary.write_bytes(arrays["trie"].data)
            first_aliases.append(first_aliases[-1] + int(arrays["num_aliases"]))
    starts = [(ord(shard.first), first) for shard, first in zip(shards, first_aliases, strict=False)]
    write_pieces(folder / "alias_shards.npy", [np.array(starts, np.int64)], np.int64)
    write_pieces(folder / "candidate_offsets.npy", offset_pieces(read_each(files, "number")), np.int64)
    for name, kind in (("entities", np.int32), ("forms", np.int8), ("priors", np.float32)):
        write_pieces(folder / f"candidate_{name}.npy", read_each(files, f"candidate_{name}"), kind)
