"""Measures the linker among homonyms as numerous as in Wikidata: a song, a film, a village and a company of any name.

    python -m benchmarks.linking_homonyms

Each concept of the sample's knowledge base gets so many invented namesakes, and every word that its descriptions or
the sample's texts write in lower case becomes a title. Sitelinks have a heavy tail: most namesakes have none, some
more than the concept. The held-out texts are linked as they are and in Title Case, with statistics of the training
texts; precision, recall and F1 are those of `data_linking`. The types that Wikidata knows are left out.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.data_linking import measure
from benchmarks.evaluation_record import write_record
from benchmarks.generated_wikidata import SYLLABLES, read_sample_entities, read_sample_texts
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics


# The sources of the sample's things and countries; its brands are homonyms already.
CONCEPT_SOURCES = ("sample", "country-coder")
LOWER_WORD = re.compile(r"\b[a-z]{2,}\b")
# Sitelinks: P(more than x) of a namesake is (1 + x) ** -TAIL; those of a concept are log-normal about a median.
TAIL = 1.35
MAX_SITELINKS = 300
CONCEPT_MEDIAN, CONCEPT_SPREAD = 60, 0.8
KINDS = (
    "{year} song by {first} {last}",
    "{year} film directed by {first} {last}",
    "village in {first}, {last}",
    "company based in {first}",
)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_homonyms", type=int, nargs="+", default=[0, 50, 200], help="Namesakes of a concept.")
    parser.add_argument("--folder", type=Path, default=None, help="Keeps the knowledge bases for the next call.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/linking_homonyms.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        measured = {str(number): measure_homonyms(folder / str(number), number) for number in args.num_homonyms}
    write_record(args.output, {"homonyms_per_concept": measured})
    print(json.dumps(measured, indent=2))


def measure_homonyms(folder: Path, num_homonyms: int) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of the held-out texts among so many namesakes, as they are and in Title Case."""
    source = write_entities(folder / "entities.jsonl", num_homonyms)
    knowledge_base = str(
        build_knowledge_base(KnowledgeBaseArguments(str(source), str(folder / "kb"), exclusions=None))
    )
    statistics = folder / "statistics.npz"
    learned = learn_statistics(read_pairs("train")[0], knowledge_base=knowledge_base, language="en")
    write_text_statistics(learned, statistics)
    texts, gold = map(list.__add__, read_pairs("validation"), read_pairs("test"))
    measured = {}
    for name, written in (("as_is", texts), ("title_case", list(map(title_case, texts)))):
        batch = recognize_mentions({"alt_text": written}, knowledge_base=knowledge_base)
        found = measure(batch, gold, knowledge_base, statistics, off=())
        precision, recall = found["precision"], found["recall"]
        measured[name] = {"f1": 2 * precision * recall / max(1e-9, precision + recall), **found}
    return measured


def read_pairs(split: str) -> tuple[list[str], list[str | None]]:
    """Texts of a split, and the entity that each names."""
    table = pq.read_table(f"sample_data/pairs/{split}.parquet", columns=["alt_text", "gold_text_entity_id"])
    return table["alt_text"].to_pylist(), table["gold_text_entity_id"].to_pylist()


def title_case(text: str) -> str:
    """The text with a capital at the beginning of every word, as `str.title` without its small letters."""
    return re.sub(r"(?<![^\W_])(?<!['’])[^\W\d_]", lambda found: found[0].upper(), text)


def write_entities(path: Path, num_homonyms: int) -> Path:
    """Writes the sample's entities with sitelinks, and their namesakes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(num_homonyms)
    known = read_sample_entities()
    with path.open("w", encoding="utf-8") as file:
        for entity in known:
            is_concept = entity["source"] in CONCEPT_SOURCES
            spread = generator.lognormal(np.log(CONCEPT_MEDIAN), CONCEPT_SPREAD)
            sitelinks = spread if is_concept else draw_sitelinks(generator)
            file.write(json.dumps(entity | {"num_sitelinks": min(int(sitelinks), MAX_SITELINKS)}) + "\n")
        for number, title in enumerate(generate_titles(known, num_homonyms)):
            name = title[:1].upper() + title[1:]
            row = {"entity_id": f"invented:{number}", "name": name, "description": describe(generator)}
            file.write(json.dumps(row | {"num_sitelinks": draw_sitelinks(generator)}) + "\n")
    return path


def generate_titles(known: list[dict], num_homonyms: int) -> Iterator[str]:
    """The name of every concept so many times, and every common word once; nothing without homonyms."""
    for entity in known:
        if entity["source"] in CONCEPT_SOURCES:
            yield from [title_case(entity["name"])] * num_homonyms
    if num_homonyms:
        written = [*(entity["description"] for entity in known), *read_sample_texts()]
        yield from sorted({word for text in written for word in LOWER_WORD.findall(text)})


def draw_sitelinks(generator: np.random.Generator) -> int:
    """Sitelinks of a namesake."""
    return min(int(generator.pareto(TAIL)), MAX_SITELINKS)


def describe(generator: np.random.Generator) -> str:
    """An invented description: what kind of namesake, when, and by whom or where."""
    syllables = [SYLLABLES[number] for number in generator.integers(0, len(SYLLABLES), 6)]
    first, last = "".join(syllables[:3]).capitalize(), "".join(syllables[3:]).capitalize()
    return KINDS[generator.integers(0, len(KINDS))].format(year=generator.integers(1930, 2026), first=first, last=last)


if __name__ == "__main__":
    main()
