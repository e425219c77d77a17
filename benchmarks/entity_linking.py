"""Measures the linker on a labeled set of texts with a knowledge base of its own.

    python -m benchmarks.entity_linking --entities ENTITIES.jsonl.gz --gold GOLD.jsonl.gz --mentions found

Builds the knowledge base (kept for the next call), learns the statistics of the texts as a build does, runs the text
phase with default settings, and prints one JSON object. Both files hold JSON lines, plain or gzipped: the entities in
the format of `build_knowledge_base`; each gold line a `text` and its `mentions` (`start`, `end`, `entity_id`).

    given   The mentions are given and the linker chooses. `accuracy`: mentions whose likeliest candidate, NIL aside,
            is right, among those with an `entity_id` (null: the entity is not in the knowledge base).
    found   The linker finds the mentions too. Span and entity must both be right; of a span listed with several
            entities, one. Predictions outside the range `evaluated`, or overlapping a span of `ignored`, are left
            out. Micro `precision`, `recall` and `f1`.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.evaluation_record import write_record
from data_scripts.build_knowledge_base import FORMAT_VERSION, KnowledgeBaseArguments, build_knowledge_base
from data_scripts.engine.files import hash_file
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.link_weights import default_weights
from data_scripts.linking.recognize_mentions import make_mention, recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics
from data_scripts.schema import Batch
from data_scripts.text.tokens import alias_key


BATCH_SIZE = 1000
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# The parts that are off in each row of `--parts`.
PARTS = {
    "prior": ("coherence", "text", "case"),
    "prior + coherence": ("text", "case"),
    "prior + coherence + text": ("case",),
    "prior + coherence + text + case": (),
}
Gold = dict[str, object]
# Start, end, entity id.
Link = tuple[int, int, str]


def main() -> None:
    """Measures, prints and, if asked, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", required=True, help="Entities of the knowledge base, .jsonl or .jsonl.gz.")
    parser.add_argument("--gold", required=True, help="Texts with their mentions, .jsonl or .jsonl.gz.")
    parser.add_argument("--mentions", choices=("given", "found"), required=True)
    parser.add_argument("--statistics", choices=("texts", "sentences"), default="texts", help="What counts as a text.")
    parser.add_argument("--parts", action="store_true", help="Also measure the linker part by part.")
    parser.add_argument("--spacy_model", default=None, help="With --parts, adds a row with NER; else NER is used.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="Keeps the knowledge base.")
    parser.add_argument("--output", type=Path, default=None, help="Also written here, with date, commit and hardware.")
    args = parser.parse_args()
    gold = list(read_lines(args.gold))
    knowledge_base = build_once(args.entities, args.folder)
    with tempfile.TemporaryDirectory() as folder:
        statistics = str(Path(folder) / "statistics.npz")
        texts = split_texts((line["text"] for line in gold), into=args.statistics)
        learned = learn_statistics(texts, knowledge_base=knowledge_base, language="en")
        write_text_statistics(learned, Path(statistics))
        files = {"knowledge_base": knowledge_base, "statistics": statistics}
        measured = measure(gold, args.mentions, spacy_model=None if args.parts else args.spacy_model, **files)
        if args.parts:
            measured["parts"] = measure_parts(gold, args.mentions, spacy_model=args.spacy_model, **files)
    if args.output:
        write_record(args.output, measured)
    print(json.dumps(measured))


def read_lines(path: str) -> Iterator[Gold]:
    """Rows of JSON lines, plain or gzipped."""
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def build_once(entities: str, folder: Path) -> str:
    """The knowledge base of a file of entities, built unless one of the same content and format is kept."""
    kept = folder / f"knowledge-base-{FORMAT_VERSION}-{hash_file(Path(entities))[:12]}"
    settings = KnowledgeBaseArguments(source=entities, output_dir=str(kept), exclusions=None)
    # The folder is named by the content: an equal file at another place finds it too.
    return str(kept if (kept / "manifest.json").is_file() else build_knowledge_base(settings))


def split_texts(texts: Iterable[str], *, into: str) -> list[str]:
    """The texts, or their sentences."""
    if into == "texts":
        return list(texts)
    return [sentence for text in texts for sentence in SENTENCE_END.split(text)]


def title_case(text: str) -> str:
    """A text with a capital at every word."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def measure_parts(gold: list[Gold], mentions: str, *, spacy_model: str | None, **files: str) -> dict[str, dict]:
    """The measure with the prior alone, then with one part more at a time."""
    default = default_weights()
    measured = {
        name: measure(gold, mentions, weights=default.without(*off), spacy_model=None, **files)
        for name, off in PARTS.items()
    }
    if spacy_model:
        measured["prior + coherence + text + case + NER"] = measure(gold, mentions, spacy_model=spacy_model, **files)
    return measured


def measure(
    gold: list[Gold],
    mentions: str,
    *,
    spacy_model: str | None,
    knowledge_base: str,
    statistics: str,
    **options: object,
) -> dict[str, float]:
    """Links the texts and compares the links with the gold ones.

    Args:
        mentions: `given` or `found`.
        options: Of `link_entities`.
    """
    batch: Batch = {"alt_text": [line["text"] for line in gold]}
    options |= {"knowledge_base": knowledge_base, "statistics": statistics}
    if mentions == "given":
        batch["mentions"] = [given_mentions(line, knowledge_base) for line in gold]
        return accuracy(gold, link_batches(batch, min_probability=0.0, **options))
    batch = recognize_mentions(batch, knowledge_base=knowledge_base, spacy_model=spacy_model)
    return precision_and_recall(gold, link_batches(batch, **options))


def given_mentions(line: Gold, knowledge_base: str) -> list[dict]:
    """The gold mentions as `recognize_mentions` would give them."""
    aliases = open_knowledge_base(knowledge_base).aliases
    spans = [(line["text"][span["start"] : span["end"]], span) for span in line["mentions"]]
    return [
        make_mention(line["text"], span["start"], span["end"], aliases.get(alias_key(written), -1), "alias")
        for written, span in spans
    ]


def link_batches(batch: Batch, **options: object) -> list[set[Link]]:
    """The linked spans of each text, batch by batch as the engine does."""
    links: list[set[Link]] = []
    for first in range(0, len(batch["alt_text"]), BATCH_SIZE):
        part = {name: batch[name][first : first + BATCH_SIZE] for name in ("alt_text", "mentions")}
        linked = link_entities(part, **options)
        for mentions, candidates in zip(linked["mentions"], linked["candidates"], strict=True):
            spans = ((mentions[candidate["mention"]], candidate["entity_id"]) for candidate in candidates)
            links.append({(mention["start"], mention["end"], entity_id) for mention, entity_id in spans})
    return links


def gold_links(line: Gold) -> set[Link]:
    """The gold spans that have an entity."""
    return {(span["start"], span["end"], span["entity_id"]) for span in line["mentions"] if span["entity_id"]}


def accuracy(gold: list[Gold], links: list[set[Link]]) -> dict[str, float]:
    """Right mentions among those whose entity the knowledge base has."""
    right = sum(len(gold_links(line) & found) for line, found in zip(gold, links, strict=True))
    total = sum(len(gold_links(line)) for line in gold)
    return {"accuracy": right / max(1, total), "mentions": total}


def precision_and_recall(gold: list[Gold], links: list[set[Link]]) -> dict[str, float]:
    """Micro precision, recall and F1 of the spans that count."""
    counted = [{link for link in found if counts(link, line)} for line, found in zip(gold, links, strict=True)]
    right = sum(len(gold_links(line) & found) for line, found in zip(gold, counted, strict=True))
    predicted = sum(map(len, counted))
    total = sum(len({(start, end) for start, end, _ in gold_links(line)}) for line in gold)
    return {
        "precision": right / max(1, predicted),
        "recall": right / max(1, total),
        "f1": 2 * right / max(1, predicted + total),
        "predicted": predicted,
        "mentions": total,
    }


def counts(link: Link, line: Gold) -> bool:
    """Whether a predicted span is inside the evaluated range and touches no ignored span."""
    start, end, _ = link
    first, last = line.get("evaluated", (0, len(line["text"])))
    outside = all(end <= span["start"] or span["end"] <= start for span in line.get("ignored", ()))
    return first <= start and end <= last and outside


if __name__ == "__main__":
    main()
