"""Reads how often texts of links name each entity: the better prior."""

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.knowledge_base.store import find_sorted
from data_scripts.text.columns import alias_keys
from modeling_mofi.whole_files import write_whole


PIECE_LINES = 100_000
COLUMNS = pa.schema({"key": pa.large_string(), "row": pa.int32(), "number": pa.int64()})


def write_anchor_counts(path: Path, source: str, ids: np.ndarray, id_order: np.ndarray) -> None:
    """Writes `alias <tab> entity_id <tab> count` as a table of key, row and number, in pieces.

    Args:
        ids: Id of each entity in UTF-8.
        id_order: Entity rows in the order of their ids.

    Raises:
        ValueError: If a line has another form.
    """
    number = 1
    with (
        write_whole(path) as temporary,
        pq.ParquetWriter(temporary, COLUMNS, compression="zstd") as out,
        open(source, encoding="utf-8") as lines,
    ):
        while piece := list(islice(lines, PIECE_LINES)):
            fields = [read_line(line, number + place, source) for place, line in enumerate(piece)]
            number += len(piece)
            names, entities, counts = zip(*fields, strict=True)
            rows = find_sorted(ids, map(str.encode, entities), order=id_order)
            columns = [alias_keys(pa.array(names)), pa.array(rows, pa.int32()), pa.array(counts, pa.int64())]
            out.write_table(pa.table(columns, schema=COLUMNS).filter(pa.array(rows >= 0)))


def read_line(line: str, number: int, source: str) -> tuple[str, str, int]:
    """Alias, id and count of a line."""
    fields = line.rstrip("\n").split("\t")
    if len(fields) != 3 or not fields[2].isdigit():
        raise ValueError(f"{source} line {number}: expected `alias <tab> entity_id <tab> count`, got {line!r}")
    return fields[0], fields[1], int(fields[2])
