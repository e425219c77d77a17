"""Counts rows in, rows out and reasons by shard and stage, adds them up over shards, and says what they mean."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_scripts.engine.jobs import Group, Job, Manifest
from data_scripts.schema import DROP_REASON, ERROR, NOTE, SHARD, Batch, Shard, drop_rows, num_rows


logger = logging.getLogger(__name__)

EXAMPLES_PER_REASON = 3
MAX_ERROR_LENGTH = 200
# So many rows have to be seen before a large share of unreadable ones ends a job that is still at work.
MIN_ROWS_TO_JUDGE = 1000


class RowCounter:
    """Counts as batches flow through the stages of a group of shards.

    Args:
        names: Of the stages.
        reading: The stage of whose dropped rows the first few are kept as examples, for people.
    """

    def __init__(self, group: Group, names: Iterable[str], *, reading: str | None = None) -> None:
        self.shards = {shard.index: shard for shard in group}
        self.stages = {index: {name: empty_counts() for name in names} for index in self.shards}
        self.notes: dict[int, Counter[str]] = {index: Counter() for index in self.shards}
        self.examples: dict[int, dict[str, list[dict[str, Any]]]] = {index: {} for index in self.shards}
        self.reading = reading

    def count_notes(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on; counts the notes on rows that were changed but kept."""
        for batch in batches:
            for index, note in zip(batch[SHARD], batch.pop(NOTE, ()), strict=False):
                if note:
                    self.notes[index][note] += 1
            yield batch

    def apply(self, name: str, function: Callable[[Batch], Batch], batches: Iterable[Batch]) -> Iterator[Batch]:
        """Runs a stage over batches and removes the rows it dropped."""
        for batch in batches:
            self.count(name, "rows_in", batch)
            batch = function(batch)
            for place, (index, reason) in enumerate(zip(batch[SHARD], batch.get(DROP_REASON, ()), strict=False)):
                if reason:
                    dropped = self.stages[index][name]["dropped"]
                    dropped[reason] = dropped.get(reason, 0) + 1
                    if name == self.reading:
                        self.keep_example(index, reason, batch, place)
            batch.pop(ERROR, None)
            batch, _ = drop_rows(batch)
            self.count(name, "rows_out", batch)
            if num_rows(batch):
                yield batch

    def count(self, stage: str, name: str, batch: Batch) -> None:
        """Adds the rows of a batch to the counts of their shards."""
        for index, rows in Counter(batch[SHARD]).items():
            self.stages[index][stage][name] += rows

    def keep_example(self, index: int, reason: str, batch: Batch, place: int) -> None:
        """Keeps the first few rows that were dropped for a reason, with all that helps to find them."""
        examples = self.examples[index].setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            row, image_id, error = (batch[name][place] if name in batch else "" for name in ("row", "image_id", ERROR))
            error = str(error or "")[:MAX_ERROR_LENGTH].encode("utf-8", "replace").decode()
            examples.append({"file": self.shards[index].path, "row": row, "id": image_id, "error": error})

    def counts_of(self, shard: Shard) -> Manifest:
        """What the manifest of a shard says."""
        notes = dict(sorted(self.notes[shard.index].items()))
        return {"stages": self.stages[shard.index], "notes": notes, "examples": self.examples[shard.index]}


def empty_counts() -> dict[str, Any]:
    """Counts of a stage that has seen nothing."""
    return {"rows_in": 0, "rows_out": 0, "dropped": {}}


class Totals:
    """Counts of many shards.

    Attributes:
        stages: Rows in, out, and dropped by reason of each stage.
        notes: Rows that were changed but kept, by what was done.
        examples: The first few rows that could not be read, by reason.
    """

    def __init__(self, stages: Iterable[str] = ()) -> None:
        self.stages = {name: empty_counts() | {"dropped": Counter()} for name in stages}
        self.notes: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def add(self, manifest: Manifest) -> None:
        """Adds the counts of a shard."""
        self.notes.update(manifest.get("notes", {}))
        for name, counts in manifest.get("stages", {}).items():
            self.stages[name]["rows_in"] += counts["rows_in"]
            self.stages[name]["rows_out"] += counts["rows_out"]
            self.stages[name]["dropped"].update(counts["dropped"])
        for reason, examples in manifest.get("examples", {}).items():
            kept = self.examples.setdefault(reason, [])
            kept += examples[: EXAMPLES_PER_REASON - len(kept)]

    def join(self, other: "Totals") -> None:
        """Adds the stages of another job."""
        self.stages |= other.stages
        self.notes += other.notes
        for reason, examples in other.examples.items():
            self.examples.setdefault(reason, examples)


def sum_manifests(job: Job, items: Iterable[Any]) -> Totals:
    """The counts of all items of a job, which are done."""
    totals = Totals(job.stages)
    for item in items:
        manifest = job.manifest(item)
        assert manifest is not None, f"{item.name} of {job.name} is not done"
        totals.add(manifest)
    for counts in totals.stages.values():
        counts["dropped"] = Counter(dict(counts["dropped"].most_common()))
    return totals


def check_readable(job: Job, totals: Totals, *, min_rows: int = 1) -> None:
    """Ends a job in which nearly nothing can be read.

    Raises:
        ValueError: With the reasons and the first examples.
    """
    counts = totals.stages.get(job.reading, empty_counts())
    unreadable = sum(counts["dropped"].values())
    if counts["rows_in"] < min_rows or unreadable <= job.max_unreadable * counts["rows_in"]:
        return
    reason, number = Counter(counts["dropped"]).most_common(1)[0]
    where = "".join(f", the first of them {place_of(example)}" for example in totals.examples.get(reason, ())[:1])
    raise ValueError(
        f"{unreadable:,} of {counts['rows_in']:,} rows could not be read in {job.reading}, which is more than "
        f"max_unreadable {job.max_unreadable}. {number:,} for {reason!r}{where}. Mend the source, or set "
        "--max_unreadable 1."
    )


def place_of(example: dict[str, Any]) -> str:
    """Where a row that could not be read is, and what exactly was wrong."""
    error = f" ({example['error']})" if example["error"] else ""
    return f"row {example['row']} of {example['file']}{error}"


def log_stages(totals: Totals, *, seconds: float) -> None:
    """One line a stage: rows in, rows out, reasons; then where the first row is of each kind that cannot be read."""
    for name, counts in totals.stages.items():
        reasons = "; ".join(f"{reason} {count:,}" for reason, count in counts["dropped"].items())
        reasons = f" ({reasons})" if reasons else ""
        logger.info("%s: %s rows in, %s out%s", name, f"{counts['rows_in']:,}", f"{counts['rows_out']:,}", reasons)
    for reason, examples in totals.examples.items():
        logger.warning("%s: the first is %s", reason, place_of(examples[0]))
    for note, count in totals.notes.items():
        logger.info("note: %s, %s rows", note, f"{count:,}")
    logger.info("%s took %.1f s", " + ".join(totals.stages), seconds)
