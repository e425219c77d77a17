"""A dump in Wikidata's format with as many entities as asked for, and alt-texts that name them.

The sample's own entities come first, so that the sample's alt-texts name something; the rest are made up of the words
of the sample and of invented ones, the frequent words in many names, as in the real thing.
"""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


SAMPLE_ENTITIES = Path("sample_data/entities.jsonl.gz")
SAMPLE_PAIRS = Path("sample_data/pairs")
SYLLABLES = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "or")]
NUM_INVENTED_WORDS = 400_000
ZIPF_EXPONENT = 0.7
DESCRIPTION_WORDS = 6
MAX_SITELINKS = 60
CHUNK = 20_000
JOINTS = (" | ", ", ", " - ", " and ", " with ", " in ")


def write_dump(path: Path, *, num_entities: int, aliases_per_entity: int) -> None:
    """Writes a gzipped dump: `[`, one entity a line with a comma after it, `]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with gzip.open(temporary, "wt", encoding="utf-8", compresslevel=1) as file:
        file.write("[\n")
        for item in generate_items(num_entities=num_entities, aliases_per_entity=aliases_per_entity):
            file.write(json.dumps(item, ensure_ascii=False, separators=(",", ":")) + ",\n")
        file.write("]\n")
    temporary.replace(path)


def generate_items(*, num_entities: int, aliases_per_entity: int) -> Iterator[dict]:
    """Items as the dump has them."""
    known = read_sample_entities()
    for entity in known[:num_entities]:
        yield make_item(entity["entity_id"], [entity["name"], *entity["aliases"]], entity["description"], 5, [])
    generator = np.random.default_rng(0)
    names = NameGenerator(generator)
    for first in range(len(known), num_entities, CHUNK):
        count = min(CHUNK, num_entities - first)
        sitelinks = np.minimum(generator.pareto(1.0, count).astype(int), MAX_SITELINKS).tolist()
        links = generator.integers(len(known), num_entities, (count, 3)).tolist()
        chosen = names.names(count * (aliases_per_entity + 1))
        described = names.words(count * DESCRIPTION_WORDS)
        for row in range(count):
            own = chosen[row * (aliases_per_entity + 1) : (row + 1) * (aliases_per_entity + 1)]
            words = described[row * DESCRIPTION_WORDS : (row + 1) * DESCRIPTION_WORDS]
            targets = [f"Q{10**9 + target}" for target in links[row]]
            yield make_item(f"Q{10**9 + first + row}", own, " ".join(words), sitelinks[row], targets)


def read_sample_entities() -> list[dict]:
    """The sample's knowledge base."""
    with gzip.open(SAMPLE_ENTITIES, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def make_item(entity_id: str, names: list[str], description: str, num_sitelinks: int, links: list[str]) -> dict:
    """One entity with the keys and nesting of a Wikidata item."""
    return {
        "type": "item",
        "id": entity_id,
        "labels": {"en": {"language": "en", "value": names[0]}},
        "descriptions": {"en": {"language": "en", "value": description}},
        "aliases": {"en": [{"language": "en", "value": alias} for alias in names[1:]]},
        "claims": {"P361": [make_statement(target) for target in links]} if links else {},
        "sitelinks": {f"w{number}wiki": {"title": names[0]} for number in range(num_sitelinks)},
    }


def make_statement(target: str) -> dict:
    """A claim that points to another item."""
    value = {"entity-type": "item", "id": target}
    snak = {"snaktype": "value", "property": "P361", "datavalue": {"type": "wikibase-entityid", "value": value}}
    return {"mainsnak": snak, "type": "statement", "rank": "normal"}


class NameGenerator:
    """Draws words by Zipf's law, and names of one to three of them, every other one with capitals."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.vocabulary = np.array(make_vocabulary(generator), dtype=object)
        weights = 1.0 / np.arange(10, 10 + len(self.vocabulary)) ** ZIPF_EXPONENT
        self.cumulative = np.cumsum(weights / weights.sum())

    def words(self, count: int) -> list[str]:
        """Words, frequent ones often."""
        drawn = np.searchsorted(self.cumulative, self.generator.random(count))
        return self.vocabulary[np.minimum(drawn, len(self.vocabulary) - 1)].tolist()

    def names(self, count: int) -> list[str]:
        """Names."""
        lengths = self.generator.choice((1, 2, 2, 3, 3), count)
        capital = (self.generator.random(count) < 0.5).tolist()
        words = iter(self.words(int(lengths.sum())))
        joined = (" ".join(itertools.islice(words, length)) for length in lengths.tolist())
        return [name.title() if upper else name for name, upper in zip(joined, capital, strict=True)]


def make_vocabulary(generator: np.random.Generator) -> list[str]:
    """The words of the sample's names and invented words of two to four syllables, shuffled; all distinct."""
    known = dict.fromkeys(
        word.lower() for entity in read_sample_entities() for word in entity["name"].split() if word.isalpha()
    )
    drawn = generator.integers(0, len(SYLLABLES), (NUM_INVENTED_WORDS, 4)).tolist()
    lengths = generator.integers(2, 5, NUM_INVENTED_WORDS).tolist()
    invented = ("".join(SYLLABLES[s] for s in row[:length]) for row, length in zip(drawn, lengths, strict=True))
    words = list(dict.fromkeys([*known, *invented]))
    order = generator.permutation(len(words))
    return [words[index] for index in order.tolist()]


def generate_texts(names: list[str], *, num_texts: int) -> list[str]:
    """Distinct alt-texts: the sample's own first, then its texts joined in pairs, and its texts with names put in."""
    generator = np.random.default_rng(1)
    own = read_sample_texts()
    texts = dict.fromkeys(own)
    while len(texts) < num_texts:
        first, second = (own[int(index)] for index in generator.integers(0, len(own), 2))
        name = names[int(generator.integers(0, len(names)))]
        joint = JOINTS[int(generator.integers(0, len(JOINTS)))]
        texts[f"{first}{joint}{second}" if generator.random() < 0.5 else f"{first}{joint}{name}"] = None
    shuffled = list(texts)[:num_texts]
    generator.shuffle(shuffled)
    return shuffled


def read_sample_texts() -> list[str]:
    """Distinct alt-texts of the sample."""
    tables = [pq.read_table(path, columns=["alt_text"]) for path in sorted(SAMPLE_PAIRS.glob("*.parquet"))]
    return list(dict.fromkeys(text for table in tables for text in table["alt_text"].to_pylist()))
