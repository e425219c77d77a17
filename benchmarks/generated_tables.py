"""Wikidata's tables and its dump of the same generated entities, as many as asked for, in the true layouts.

An entity has 8 or 9 statements, as the true ones on average, with a reference each; names in three languages,
descriptions in two, and 5.5 aliases in English. What is not read is there too: other languages, titles, references.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.generated_wikidata import DESCRIPTION_WORDS, ZIPF_EXPONENT, make_vocabulary


CHUNK = 100_000
NUM_CLASSES, NUM_LINKS, NUM_LITERALS = 100, 3, 4
MAX_SITES = 40
OTHER_LANGUAGES = ("de", "fr")
HASH = "e0a1c3b5d7f9e0a1c3b5d7f9e0a1c3b5d7f9e0a1"
SOURCE = {"snaktype": "value", "property": "P143", "hash": HASH, "datatype": "wikibase-item"}
SOURCE["datavalue"] = {"type": "wikibase-entityid", "value": {"entity-type": "item", "numeric-id": 328, "id": "Q328"}}
REFERENCES = json.dumps([{"hash": HASH, "snaks": {"P143": [SOURCE]}, "snaks-order": ["P143"]}])
ITEM, TEXT = "wikibase-item", "string"
DATAVALUE = pa.struct({"id": pa.string(), "string": pa.string()})

# A statement: property, target or text, whether that is an item.
Statements = list[tuple[str, str, bool]]


@dataclass(frozen=True)
class Entities:
    """Some entities, a column each."""

    ids: pa.Array
    names: pa.Array
    descriptions: pa.Array
    aliases: pa.Array
    num_sitelinks: np.ndarray
    statements: dict[str, pa.Array]


class EntityGenerator:
    """Makes entities in the order of the tables, which is that of their ids as texts."""

    def __init__(self, num_entities: int) -> None:
        numbers = pa.array(np.arange(num_entities) * 7 + 10_000_000).cast(pa.string())
        ids = pc.binary_join_element_wise("Q", numbers, "")
        self.ids = ids.take(pc.sort_indices(ids))
        vocabulary = make_vocabulary(np.random.default_rng(0))
        self.vocabulary = pa.array(vocabulary, pa.string())
        weights = 1.0 / np.arange(10, 10 + len(vocabulary)) ** ZIPF_EXPONENT
        self.cumulative = np.cumsum(weights / weights.sum())

    def chunks(self) -> Iterator[Entities]:
        """All entities, some at a time; the same whatever is made of them."""
        for first in range(0, len(self.ids), CHUNK):
            generator = np.random.default_rng([1, first])
            ids = self.ids.slice(first, CHUNK)
            num = len(ids)
            num_aliases = 5 + np.arange(num) % 2
            offsets = pa.array(np.concatenate([[0], np.cumsum(num_aliases)]), pa.int32())
            aliases = pa.ListArray.from_arrays(offsets, self.texts(generator, int(num_aliases.sum()), max_words=3))
            yield Entities(
                ids,
                self.texts(generator, num, max_words=3),
                self.texts(generator, num, max_words=DESCRIPTION_WORDS, min_words=DESCRIPTION_WORDS),
                aliases,
                1 + np.minimum(generator.pareto(1.0, num).astype(int), MAX_SITES - 1),
                self.statements(generator, num),
            )

    def texts(self, generator: np.random.Generator, num: int, *, max_words: int, min_words: int = 1) -> pa.Array:
        """Names of some words, frequent ones often; every other one with capitals."""
        lengths = generator.integers(min_words, max_words + 1, num)
        columns = []
        for place in range(max_words):
            drawn = np.minimum(np.searchsorted(self.cumulative, generator.random(num)), len(self.vocabulary) - 1)
            columns.append(self.vocabulary.take(pa.array(drawn, mask=lengths <= place)))
        joined = pc.binary_join_element_wise(*columns, " ", null_handling="skip")
        return pc.if_else(pa.array(generator.random(num) < 0.5), pc.utf8_title(joined), joined)

    def statements(self, generator: np.random.Generator, num: int) -> dict[str, pa.Array]:
        """By property, what each entity has of it, or null."""

        def items(limit: int, share: float) -> pa.Array:
            return self.ids.take(pa.array(generator.integers(0, limit, num), mask=generator.random(num) >= share))

        classes, all_entities = min(NUM_CLASSES, len(self.ids)), len(self.ids)
        pictures = pa.array(["a picture.jpg"] * num)
        found = {"P31": items(classes, 1.0), "P279": items(classes, 0.02)}
        found["P18"] = pc.if_else(pa.array(generator.random(num) < 0.3), pictures, pa.scalar(None, pa.string()))
        found |= {f"P{361 + link}": items(all_entities, 1.0) for link in range(NUM_LINKS)}
        return found | {f"P{900 + text}": pa.array([f"literal {text}"] * num) for text in range(NUM_LITERALS)}


def write_tables(folder: Path, *, num_entities: int) -> None:
    """Writes labels, descriptions, aliases, links and claims, a file for each chunk of entities."""
    num_chunks = -(-num_entities // CHUNK)
    for index, entities in enumerate(EntityGenerator(num_entities).chunks()):
        part = f"part-{index:05d}-of-{num_chunks:05d}.parquet"
        write_texts(folder / "labels" / "en" / part, entities.ids, "en", entities.names)
        write_texts(folder / "descriptions" / "en" / part, entities.ids, "en", entities.descriptions)
        owners = entities.ids.take(pc.list_parent_indices(entities.aliases))
        write_texts(folder / "aliases" / "en" / part, owners, "en", pc.list_flatten(entities.aliases))
        for language in OTHER_LANGUAGES:
            write_texts(folder / "labels" / language / part, entities.ids, language, entities.names)
        write_texts(folder / "descriptions" / "de" / part, entities.ids, "de", entities.descriptions)
        for site in range(MAX_SITES):
            has_page = pa.array(entities.num_sitelinks > site)
            ids, titles = entities.ids.filter(has_page), entities.names.filter(has_page)
            columns = {"id": ids, "site": pa.array([f"w{site}wiki"] * len(ids), pa.string()), "title": titles}
            write_parquet(folder / "links" / f"w{site}wiki" / part, pa.table(columns))
        write_parquet(folder / "claims" / "all" / part, claims_table(entities))


def claims_table(entities: Entities) -> pa.Table:
    """The statements of some entities in the order of their ids."""
    tables = []
    for name, values in entities.statements.items():
        is_item = name not in ("P18",) and not name.startswith("P9")
        texts = {"id": values, "string": pa.nulls(len(values), pa.string())}
        texts = texts if is_item else {"id": texts["string"], "string": values}
        columns = {
            "id": entities.ids,
            "property": pa.array([name] * len(values)),
            "datavalue": pa.StructArray.from_arrays(list(texts.values()), fields=list(DATAVALUE)),
            "datatype": pa.array([ITEM if is_item else TEXT] * len(values)),
            "rank": pa.array(["normal"] * len(values)),
            "qualifiers": pa.array(["{}"] * len(values)),
            "references": pa.array([REFERENCES] * len(values)),
        }
        tables.append(pa.table(columns).filter(values.is_valid()))
    table = pa.concat_tables(tables)
    return table.take(pc.sort_indices(table["id"]))


def write_texts(path: Path, ids: pa.Array, language: str, values: pa.Array) -> None:
    """Writes a file of texts in one language."""
    write_parquet(path, pa.table({"id": ids, "language": pa.array([language] * len(ids)), "value": values}))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a file as the Hub's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def write_dump(path: Path, *, num_entities: int) -> None:
    """Writes a gzipped dump of the same entities in the same order."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        file.write("[\n")
        for entities in EntityGenerator(num_entities).chunks():
            columns = [entities.ids, entities.names, entities.descriptions, entities.aliases, entities.num_sitelinks]
            rows = zip(*(column.tolist() for column in columns), strict=True)
            statements = zip(*(values.to_pylist() for values in entities.statements.values()), strict=True)
            for row, values in zip(rows, statements, strict=True):
                file.write(item_line(*row, dict(zip(entities.statements, values, strict=True))))
        file.write("]\n")


def item_line(
    entity_id: str, name: str, description: str, aliases: list[str], num_sitelinks: int, values: dict[str, str | None]
) -> str:
    """An entity as a line of the dump; the texts need no escapes."""

    def term(language: str, text: str) -> str:
        return f'{{"language":"{language}","value":"{text}"}}'

    labels = ",".join(f'"{language}":{term(language, name)}' for language in ("en", *OTHER_LANGUAGES))
    descriptions = ",".join(f'"{language}":{term(language, description)}' for language in ("en", "de"))
    others = ",".join(term("en", alias) for alias in aliases)
    claims = ",".join(statement_json(entity_id, *pair) for pair in values.items() if pair[1])
    sites = ",".join(
        f'"w{n}wiki":{{"site":"w{n}wiki","title":"{name}","badges":[],"url":"https://w{n}.example.org/wiki/{entity_id}"}}'
        for n in range(num_sitelinks)
    )
    return (
        f'{{"type":"item","id":"{entity_id}","labels":{{{labels}}},"descriptions":{{{descriptions}}},'
        f'"aliases":{{"en":[{others}]}},"claims":{{{claims}}},"sitelinks":{{{sites}}},"pageid":1,"ns":0,'
        f'"title":"{entity_id}","lastrevid":1,"modified":"2026-01-01T00:00:00Z"}},\n'
    )


def statement_json(entity_id: str, name: str, value: str) -> str:
    """A property with its only statement."""
    if value.startswith("Q"):
        number = f'"entity-type":"item","numeric-id":{value[1:]},"id":"{value}"'
        datavalue, datatype = f'{{"value":{{{number}}},"type":"wikibase-entityid"}}', ITEM
    else:
        datavalue, datatype = f'{{"value":"{value}","type":"string"}}', TEXT
    snak = f'"snaktype":"value","property":"{name}","hash":"{HASH}","datavalue":{datavalue},"datatype":"{datatype}"'
    return (
        f'"{name}":[{{"mainsnak":{{{snak}}},"type":"statement","id":"{entity_id}${HASH}","rank":"normal",'
        f'"references":{REFERENCES}}}]'
    )
