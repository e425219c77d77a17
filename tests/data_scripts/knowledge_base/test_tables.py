"""Wikidata's tables, from a folder and from the Hub, give what the dump of the same entities gives."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base import tables
from data_scripts.knowledge_base.store import KnowledgeBase


sys.path.insert(0, str(Path(__file__).parents[2]))  # For the Hub's stand-in.

from hub_server import connected_hub


# id, names, descriptions, aliases by language; sites; (property, target, rank), where None is an unknown value.
ITEMS = [
    ("Q1", {"en": "tiger", "mul": "Tiger!"}, {"en": "big cat"}, {"en": ["panthera", "big cat"], "mul": ["PT"]}, 3,
     [("P31", "Q16521", "normal"), ("P18", "tiger.jpg", "normal"), ("P171", "Q3", "normal")]),
    ("Q10", {"mul": "Fox"}, {"en-gb": "colour of a fox"}, {}, 1,
     [("P31", "Q101352", "normal"), ("P31", "Q5", "preferred"), ("P18", None, "normal"), ("P1", "Q1", "deprecated")]),
    ("Q2", {"en": "1999"}, {}, {}, 9, [("P31", "Q700", "normal")]),
    ("Q3", {"en": "cat"}, {}, {"en": ["cats"]}, 2,
     [("P1", "Q10", "normal"), ("P1", "Q1", "normal"), ("P2", "Q9", "normal")]),
    ("Q4", {"en": "unknown"}, {}, {}, 0, []),
    ("Q700", {"de": "Jahr"}, {}, {}, 4, [("P279", "Q800", "normal")]),
    ("Q800", {}, {}, {}, 0, [("P279", "Q577", "normal"), ("P279", "Q700", "normal")]),
]  # fmt: skip


def write_parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_texts(folder, texts):
    """One table of texts: a folder for each language, its rows sorted by id, in two files."""
    for language in sorted({language for _, language, _ in texts}):
        rows = [row for row in texts if row[1] == language]
        for number, part in enumerate((rows[:1], rows[1:])):
            columns = {name: [row[i] for row in part] for i, name in enumerate(("id", "language", "value"))}
            columns = {name: pa.array(values, pa.string()) for name, values in columns.items()}
            write_parquet(folder / language / f"part-{number}-of-2.parquet", columns)


def write_tables(folder):
    names, descriptions, aliases, sites, claims = [], [], [], {}, []
    for entity_id, labels, described, others, num_sites, statements in ITEMS:
        names += [(entity_id, language, text) for language, text in labels.items()]
        descriptions += [(entity_id, language, text) for language, text in described.items()]
        aliases += [(entity_id, language, text) for language, texts in others.items() for text in texts]
        for site in range(num_sites):
            sites.setdefault(f"w{site}wiki", []).append(entity_id)
        claims += [(entity_id, *statement) for statement in statements]
    for table, texts in (("labels", names), ("descriptions", descriptions), ("aliases", aliases)):
        write_texts(folder / table, texts)
    for site, ids in sites.items():
        write_parquet(
            folder / "links" / site / "part-0-of-1.parquet", {"id": ids, "site": [site] * len(ids), "title": ids}
        )
    values = [
        target and {"id": target if target.startswith("Q") else None, "string": target} for _, _, target, _ in claims
    ]
    kind = pa.struct({"id": pa.string(), "string": pa.string()})
    columns = {"id": [c[0] for c in claims], "property": [c[1] for c in claims], "rank": [c[3] for c in claims]}
    write_parquet(folder / "claims" / "all" / "part-0-of-1.parquet", columns | {"datavalue": pa.array(values, kind)})
    return folder


def make_statement(target, rank):
    if target is None:
        return {"mainsnak": {"snaktype": "somevalue"}, "rank": rank}
    value = {"type": "string", "value": target}
    if target.startswith("Q"):
        value = {"type": "wikibase-entityid", "value": {"entity-type": "item", "id": target}}
    return {"mainsnak": {"snaktype": "value", "datavalue": value}, "rank": rank}


def write_dump(path):
    records = []
    for entity_id, labels, descriptions, aliases, num_sites, statements in ITEMS:
        claims = {}
        for name, target, rank in statements:
            claims.setdefault(name, []).append(make_statement(target, rank))
        records.append(
            {
                "type": "item",
                "id": entity_id,
                "labels": {language: {"value": text} for language, text in labels.items()},
                "descriptions": {language: {"value": text} for language, text in descriptions.items()},
                "aliases": {language: [{"value": text} for text in texts] for language, texts in aliases.items()},
                "claims": claims,
                "sitelinks": {f"w{site}wiki": {} for site in range(num_sites)},
            }
        )
    path.write_text("[\n" + "".join(json.dumps(record) + ",\n" for record in records) + "]\n")
    return path


def build(source, folder, **settings):
    return build_knowledge_base(KnowledgeBaseArguments(str(source), str(folder), **settings))


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".arrow", ".marisa")}


EXPECTED = [
    {
        "entity_id": "Q1", "name": "tiger", "description": "big cat", "aliases": ["panthera", "big cat", "PT"],
        "num_sitelinks": 3, "types": ["Q16521"], "links": ["Q3"], "has_image": True,
    },
    {
        "entity_id": "Q10", "name": "Fox", "description": "colour of a fox", "aliases": [],
        "num_sitelinks": 1, "types": ["Q5"], "links": [], "has_image": False,
    },
    {
        "entity_id": "Q3", "name": "cat", "description": "", "aliases": ["cats"],
        "num_sitelinks": 2, "types": [], "links": ["Q1", "Q10"], "has_image": False,
    },
]  # fmt: skip


def test_tables_and_the_dump_of_the_same_entities_give_the_same_bytes(tmp_path):
    from_tables = build(write_tables(tmp_path / "tables"), tmp_path / "a")
    from_dump = build(write_dump(tmp_path / "dump.json"), tmp_path / "b")
    kb = KnowledgeBase(from_tables)
    assert kb.table.to_pylist() == EXPECTED
    assert kb.has_image.tolist() == [True, False, False]
    assert read_files(from_tables) == read_files(from_dump)


def test_a_kind_of_a_kind_of_a_year_is_left_out_and_counted(tmp_path):
    counts = KnowledgeBase(build(write_tables(tmp_path / "tables"), tmp_path / "a")).manifest["counts"]
    assert counts == {"fewer than 1 sitelinks": 1, "is a calendar year": 1, "kept": 3}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"include_types": ["Q577"], "exclusions": None}, ["Q2"]),
        ({"exclude_types": ["Q5"]}, ["Q1", "Q3"]),
        ({"only_with_image": True}, ["Q1"]),
        ({"min_sitelinks": 3}, ["Q1"]),
        ({"entity_ids": "ids.txt"}, ["Q3"]),
        ({"extend": "own.jsonl"}, ["Q10", "Q3", "Q1", "mine:1"]),
    ],
)
def test_what_is_kept_is_a_setting(settings, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("Q3\nQ999\n")
    own = [{"entity_id": "Q1", "name": "my tiger"}, {"entity_id": "mine:1", "name": "thing"}]
    Path("own.jsonl").write_text("".join(json.dumps(record) + "\n" for record in own))
    kb = KnowledgeBase(build(write_tables(tmp_path / "tables"), tmp_path / "a", **settings))
    assert sorted(kb.table["entity_id"].to_pylist()) == sorted(kept)


def test_a_built_knowledge_base_takes_own_entities(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"entity_id": "Q1", "name": "my tiger"}\n')
    base = build(write_tables(tmp_path / "tables"), tmp_path / "a")
    kb = KnowledgeBase(build(base, tmp_path / "b", extend=str(tmp_path / "own.jsonl"), min_sitelinks=0))
    assert {row["entity_id"]: row["name"] for row in kb.table.to_pylist()} == {
        "Q1": "my tiger",
        "Q10": "Fox",
        "Q3": "cat",
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = write_tables(tmp_path / "tables")
    with connected_hub(monkeypatch) as server:
        for path in sorted(folder.rglob("*.parquet")):
            table, *rest = path.relative_to(folder).parts
            server.files.setdefault(f"datasets/permutans/wikidata-{table}", {})["/".join(rest)] = path.read_bytes()
        yield server


def test_tables_of_the_hub_give_the_same_and_are_fetched_once(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0.0)
    assert read_files(build("hub", tmp_path / "a")) == read_files(build(tmp_path / "tables", tmp_path / "b"))
    fetched = [
        path.relative_to(tmp_path / "a/tables").as_posix() for path in (tmp_path / "a/tables").rglob("*.parquet")
    ]
    assert not [name for name in fetched if "/de/" in name]
    hub.files.clear()
    build("hub", tmp_path / "c", download_dir=str(tmp_path / "a/tables"))


def test_a_download_that_breaks_off_goes_on_with_what_is_missing(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(tables, "ATTEMPTS", 2)
    repo, name = hub.files["datasets/permutans/wikidata-claims"], "all/part-0-of-1.parquet"
    whole = repo[name]
    repo[name] = whole[: len(whole) // 2]
    with pytest.raises(ConnectionError, match="run the command again"):
        build("hub", tmp_path / "a")
    fetched = {path: path.stat().st_mtime_ns for path in (tmp_path / "a/tables").rglob("*.parquet")}
    assert fetched and not [path for path in fetched if "claims" in str(path)]
    repo[name] = whole
    HfFileSystem.clear_instance_cache()  # As a new process: it knows no sizes of files.
    assert read_files(build("hub", tmp_path / "a")) == read_files(build(tmp_path / "tables", tmp_path / "b"))
    assert {path: path.stat().st_mtime_ns for path in fetched} == fetched
    assert not list(tmp_path.rglob("*.tmp.*"))
