"""Cuts a plan to the first rows of a source, so that settings can be tried on a small build."""

from collections.abc import Sequence
from dataclasses import replace

from data_scripts.arguments import SourceArguments
from data_scripts.schema import Shard
from data_scripts.sources.pairs import READERS


def limit_shards(shards: Sequence[Shard], source: SourceArguments) -> list[Shard]:
    """The shards that hold the first `source.limit` rows; the last of them ends there."""
    if source.limit is None:
        return list(shards)
    kept: list[Shard] = []
    left = source.limit
    for shard in shards:
        kept.append(replace(shard, max_rows=left))
        left -= count_rows(shard, source, limit=left)
        if left <= 0:
            return kept
        kept[-1] = shard
    return kept


def count_rows(shard: Shard, source: SourceArguments, *, limit: int) -> int:
    """Rows of a shard; where the plan does not know them, they are read until the limit."""
    if shard.format == "parquet" and shard.stop is not None:
        return shard.stop - shard.start
    count = 0
    for rows, _ in READERS[shard.format](shard, names=[source.alt_text_column], batch_size=1000, rows=None):
        count = rows[-1] + 1
        if count >= limit:
            break
    return count
