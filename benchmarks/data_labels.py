"""The reduction of the data build: rows labeled per second, in one process and in two, beside a plain loop over rows.

    OMP_NUM_THREADS=1 python -m benchmarks.data_labels

Generated filtered shards whose rows name one to three entities by Zipf's law, with a cap, a validation split and a
least number of images, so that all passes run. The plain loop does with dictionaries, a row at a time, what the passes
do: it reads the tables to count, and again to draw, split and write. It depends on the order of the rows, so that it
cannot be shared out.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import build_sample_knowledge_base
from data_scripts.arguments import LabelArguments
from data_scripts.engine.engines import Engine, run_steps
from data_scripts.knowledge_base.store import KnowledgeBase, open_knowledge_base
from data_scripts.labels.label_entities import hash_of
from data_scripts.labels.label_shards import LabelFolders, label_shards
from data_scripts.schema import Shard, filtered_schema, labeled_schema


OPTIONS = LabelArguments(min_images_per_entity=5, max_images_per_entity=1_000, validation_fraction=0.01)
ROWS_PER_SHARD = 10_000


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_shards", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_labels.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Engine(num_processes=2, preload=["data_scripts.phases"]) as two:
        folder = Path(name)
        kb = open_knowledge_base(build_sample_knowledge_base(folder))
        shards = write_filtered(folder / "filtered", kb, num_shards=args.num_shards)
        (folder / "plain").mkdir()
        plain = label_plainly(folder / "filtered", shards, folder / "plain")
        one_process = run_passes(folder, shards, kb, Engine())
        list(two.run(time.sleep, [1.0, 1.0]))  # Starts the workers.
        two_processes = run_passes(folder, shards, kb, two)
    measured = {
        "plain_loop": plain,
        "one_process": one_process,
        "two_processes": two_processes,
        "one_process_relative_to_plain_loop": one_process["rows_per_second"] / plain["rows_per_second"],
        "two_relative_to_one": two_processes["rows_per_second"] / one_process["rows_per_second"],
    }
    write_record(args.output, {"options": vars(OPTIONS), "num_rows": ROWS_PER_SHARD * args.num_shards} | measured)
    print(json.dumps(measured, indent=2))


def write_filtered(folder: Path, kb: KnowledgeBase, *, num_shards: int) -> list[Shard]:
    """Shards as `filter_entities` leaves them."""
    folder.mkdir()
    ids = np.array(kb.table["entity_id"].to_pylist(), dtype=object)
    weights = 1 / np.arange(1, len(ids) + 1)
    cumulative = np.cumsum(weights / weights.sum())
    generator = np.random.default_rng(0)
    for index in range(num_shards):
        lengths = generator.integers(1, 4, ROWS_PER_SHARD)
        drawn = np.minimum(np.searchsorted(cumulative, generator.random(lengths.sum())), len(ids) - 1)
        named = np.split(ids[drawn], np.cumsum(lengths)[:-1])
        rows = [
            {
                "image_id": f"{index:06d}-{row:09d}",
                "row": row,
                "entities": [{"entity_id": entity_id, "similarity": 0.3} for entity_id in dict.fromkeys(found)],
            }
            for row, found in enumerate(named)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=filtered_schema()), folder / f"{index:06d}.parquet")
    return [Shard(index, "generated", "") for index in range(num_shards)]


def run_passes(folder: Path, shards: Sequence[Shard], kb: KnowledgeBase, engine: Engine) -> dict[str, float]:
    """All passes over the shards."""
    target = folder / f"{engine.num_processes}"
    started = time.perf_counter()
    folders = LabelFolders(folder / "filtered", target / "build", target / "rows")
    summary = run_steps(label_shards(shards, folders=folders, options=OPTIONS, kb=kb), engine=engine)
    seconds = time.perf_counter() - started
    return summary.rows | {"rows_per_second": ROWS_PER_SHARD * len(shards) / seconds}


def label_plainly(filtered: Path, shards: Sequence[Shard], target: Path) -> dict[str, float]:
    """The same with dictionaries, a row at a time; the first images of a draw fill the cap."""
    started = time.perf_counter()
    tables = [filtered / f"{shard.index:06d}.parquet" for shard in shards]
    counts: Counter[str] = Counter()
    for path in tables:
        counts.update(entity["entity_id"] for row in pq.read_table(path).to_pylist() for entity in row["entities"])
    kept = sorted(entity_id for entity_id, count in counts.items() if count >= OPTIONS.min_images_per_entity)
    label_of = {entity_id: label for label, entity_id in enumerate(kept)}
    room = {entity_id: min(counts[entity_id], OPTIONS.max_images_per_entity) for entity_id in kept}
    splits: Counter[str] = Counter()
    for path in tables:
        rows = list(label_rows_plainly(pq.read_table(path).to_pylist(), label_of, room, counts))
        splits.update(row["split"] for row in rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=labeled_schema()), target / path.name)
    seconds = time.perf_counter() - started
    found = {split: splits[split] for split in ("train", "validation")}
    return found | {"rows_per_second": ROWS_PER_SHARD * len(shards) / seconds}


def label_rows_plainly(
    rows: list[dict], label_of: dict[str, int], room: dict[str, int], counts: Counter[str]
) -> Iterator[dict[str, object]]:
    """Rows of a shard that keep an entity."""
    for row in rows:
        entities = []
        for entity in row["entities"]:
            entity_id = entity["entity_id"]
            share = OPTIONS.max_images_per_entity / counts[entity_id]
            if room.get(entity_id, 0) and (share >= 1 or is_below(f"0 {entity_id} {row['image_id']}", share)):
                room[entity_id] -= 1
                entities.append(entity)
        if entities:
            split = "validation" if is_below(f"0 {row['image_id']}", OPTIONS.validation_fraction) else "train"
            labels = [label_of[entity["entity_id"]] for entity in entities]
            yield {"row": row["row"], "split": split, "entities": entities, "entity_labels": labels}


def is_below(key: str, share: float) -> bool:
    """Whether a string is among a share of all strings."""
    return hash_of(key) < share * 2**64


if __name__ == "__main__":
    main()
