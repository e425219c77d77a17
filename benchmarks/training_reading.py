"""What reading local Parquet files costs many readers: rows decompressed for each row used, and rows held in memory.

    python -m benchmarks.training_reading --num_processes 8 --num_workers 8

All readers of a machine, a worker of a process each, read the batches of an epoch in the trainer's order, some batches
ahead of one another by chance. They are simulated in one process, as only counts are measured: readers that know
nothing of one another, and those that `train.py` opens. Writes benchmarks/results/training_reading.json.
"""

import random
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.evaluation_record import write_record
from modeling_mofi.data.collator import WINDOW_ROWS, PositionSampler
from modeling_mofi.data.parquet_rows import ParquetRows
from modeling_mofi.data.streamed_rows import StreamedRows, open_rows
from modeling_mofi.recipe_parser import parse_recipe


ROOT = Path(__file__).parent.parent
PREFETCHED = 2  # Batches that a worker prepares ahead, torch's default.


@dataclass
class ReadingArguments:
    """Sizes to measure."""

    num_rows: int = 60_000
    rows_per_group: int = 500
    image_bytes: int = 200
    batch_size: int = 32
    num_processes: int = 8
    num_workers: int = 8
    output: str = "benchmarks/results/training_reading.json"


def main() -> None:
    (args,) = parse_recipe(ReadingArguments, description="Measures how often local rows are decompressed.")
    measured = measure(args)
    write_record(ROOT / args.output, {"settings": asdict(args), **measured})
    print(measured)


def measure(args: ReadingArguments) -> dict[str, Any]:
    """Counts by kind of reader."""
    num_readers = args.num_processes * args.num_workers
    at_work = args.num_processes * (1 + args.num_workers * PREFETCHED) * args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        files, columns = write_files(args, Path(folder)), {"image": "image"}
        settings = {"num_cached_rows": WINDOW_ROWS, "num_kept_rows": 2 * at_work, "folder": Path(folder) / "kept"}
        kinds = {"each_by_itself": 1, "together": num_readers}
        found = {}
        for name, num_known in kinds.items():
            readers = [open_rows(files, columns, num_readers=num_known, **settings) for _ in range(num_readers)]
            found[name] = count(args, readers, Path(folder) / "kept")
            del readers  # And with them what they hold in memory.
        return found


def write_files(args: ReadingArguments, folder: Path) -> list[str]:
    """Four Parquet files of rows whose images are noise."""
    generator, files = np.random.default_rng(0), []
    for shard in range(4):
        images = [{"bytes": generator.bytes(args.image_bytes), "path": None} for _ in range(args.num_rows // 4)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        files.append(str(folder / f"{shard}.parquet"))
        pq.write_table(pa.table({"image": pa.array(images, kind)}), files[-1], row_group_size=args.rows_per_group)
    return files


def count(args: ReadingArguments, readers: list[ParquetRows], kept: Path) -> dict[str, Any]:
    """Reads an epoch; says what was decompressed, held in memory, and kept on disk at most."""
    decompressed: Counter[str] = Counter()
    kind = StreamedRows if isinstance(readers[0], StreamedRows) else ParquetRows
    method = "_download" if kind is StreamedRows else "_read_group"
    read = getattr(kind, method)

    def note(rows: ParquetRows, group: int) -> pa.Table:
        decompressed["rows"] += rows.group_sizes[group]
        return read(rows, group)

    used = most_held = most_kept = 0
    with mock.patch.object(kind, method, note):
        for reader, positions in batches(args, readers[0].group_sizes):
            for position in positions:
                assert len(readers[reader][position]["image"]["bytes"]) == args.image_bytes
            used += len(positions)
            if used % (64 * args.batch_size) == 0:
                most_held = max(most_held, pa.total_allocated_bytes())
                most_kept = max(most_kept, sum(path.stat().st_size for path in kept.rglob("*.arrow")))
    return {
        "decompressed_per_row_used": round(decompressed["rows"] / used, 3),
        "rows_held_in_memory": round(most_held / args.image_bytes),
        "rows_kept_on_disk": round(most_kept / args.image_bytes),
    }


def batches(args: ReadingArguments, group_sizes: list[int]) -> list[tuple[int, list[int]]]:
    """Reader and positions of each batch, in the trainer's order but for what readers are ahead of one another."""
    positions = list(PositionSampler(group_sizes, seed=0))
    size, found = args.batch_size, []
    for place in range(len(positions) // size):
        step, process = divmod(place, args.num_processes)
        reader = process * args.num_workers + step % args.num_workers
        found.append((reader, positions[place * size : (place + 1) * size]))
    ahead, shuffled = args.num_processes * args.num_workers * PREFETCHED, []
    generator = random.Random(0)
    for start in range(0, len(found), ahead):
        shuffled += generator.sample(part := found[start : start + ahead], len(part))
    return shuffled


if __name__ == "__main__":
    main()
