import bz2
import gzip
import json
import math
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
from tiny_build import write_entities

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base import read_parts
from data_scripts.knowledge_base.selection import read_exclusions
from data_scripts.knowledge_base.store import CASELESS, COMMON, PROPER, KnowledgeBase
from data_scripts.knowledge_base.write_entities import popularity
from data_scripts.text.tokens import alias_key


def terms(**texts):
    return {language: {"language": language, "value": value} for language, value in texts.items()}


def item_claim(property_id, target, rank="normal"):
    value = {"entity-type": "item", "numeric-id": int(target[1:]), "id": target}
    return {
        "mainsnak": {
            "snaktype": "value",
            "property": property_id,
            "datavalue": {"value": value, "type": "wikibase-entityid"},
            "datatype": "wikibase-item",
        },
        "type": "statement",
        "id": f"x${property_id}",
        "rank": rank,
    }


def string_claim(property_id, text):
    snak = {"snaktype": "value", "property": property_id, "datavalue": {"value": text, "type": "string"}}
    return {"mainsnak": snak, "type": "statement", "id": "x$1", "rank": "normal"}


def unknown_claim(property_id):
    return {"mainsnak": {"snaktype": "somevalue", "property": property_id}, "type": "statement", "rank": "normal"}


def item(entity_id, *, labels, descriptions=None, aliases=None, claims=(), sitelinks=0):
    by_property = {}
    for claim in claims:
        by_property.setdefault(claim["mainsnak"]["property"], []).append(claim)
    return {
        "type": "item",
        "id": entity_id,
        "labels": labels,
        "descriptions": descriptions or {},
        "aliases": {
            code: [{"language": code, "value": text} for text in texts] for code, texts in (aliases or {}).items()
        },
        "claims": by_property or [],
        "sitelinks": {f"wiki{i}": {"site": f"wiki{i}", "title": "x", "badges": []} for i in range(sitelinks)} or [],
        "pageid": 1,
        "ns": 0,
        "title": entity_id,
        "lastrevid": 1,
        "modified": "2026-01-01T00:00:00Z",
    }


DUMP = [
    item(
        "Q43",
        labels=terms(en="Turkey", de="Türkei"),
        descriptions=terms(en="country in West Asia"),
        aliases={"en": ["Türkiye", "Republic of Turkey"], "de": ["Republik Türkei"]},
        claims=[
            item_claim("P31", "Q6256"),
            item_claim("P36", "Q3640"),
            item_claim("P47", "Q99999"),
            item_claim("P36", "Q406", rank="deprecated"),
            string_claim("P297", "TR"),
            unknown_claim("P6"),
        ],
        sitelinks=300,
    ),
    item("Q26844", labels=terms(en="turkey"), descriptions=terms(en="large bird"), sitelinks=99),
    item("Q3640", labels=terms(en="Ankara"), claims=[item_claim("P17", "Q43")], sitelinks=200),
    item("Q406", labels=terms(mul="Istanbul"), sitelinks=200),
    item("Q6256", labels=terms(en="country"), sitelinks=10),
    item("Q1", labels=terms(en="Turkey (disambiguation)"), claims=[item_claim("P31", "Q4167410")]),
    item("Q2", labels=terms(en="Category:Turkey"), claims=[item_claim("P31", "Q4167836")]),
    item("Q3", labels=terms(en="A study of turkeys"), claims=[item_claim("P31", "Q13442814")]),
    item("Q4", labels=terms(de="Nur deutsch")),
    {"type": "property", "id": "P31", "labels": terms(en="instance of"), "datatype": "wikibase-item"},
]


@pytest.fixture
def build(tmp_path):
    """Writes records as a dump and builds a knowledge base from it."""

    def run(records=DUMP, name="latest-all.json.gz", folder="kb", **settings):
        text = "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n"
        compressors = {".gz": partial(gzip.compress, mtime=0), ".bz2": bz2.compress, ".json": bytes}
        (tmp_path / name).write_bytes(compressors["." + name.rpartition(".")[2]](text.encode()))
        settings = {"min_sitelinks": 0} | settings
        args = KnowledgeBaseArguments(source=str(tmp_path / name), output_dir=str(tmp_path / folder), **settings)
        return KnowledgeBase(build_knowledge_base(args))

    return run


def candidates(kb, name):
    alias = kb.aliases[alias_key(name)]
    first, last = kb.offsets[alias], kb.offsets[alias + 1]
    return dict(zip(kb.entity_ids(kb.candidates[first:last]), kb.priors[first:last].tolist(), strict=True))


@pytest.mark.parametrize("name", ["latest-all.json.gz", "latest-all.json.bz2", "latest-all.json"])
def test_a_wikidata_dump_becomes_entities_with_links_between_those_kept(name, build):
    row = build(name=name).table.slice(0, 1).to_pylist()[0]
    assert row == {
        "entity_id": "Q43",
        "name": "Turkey",
        "description": "country in West Asia",
        "aliases": ["Türkiye", "Republic of Turkey"],
        "num_sitelinks": 300,
        "types": ["Q6256"],
        "links": ["Q3640"],
        "has_image": False,
    }


def test_what_no_image_can_show_is_left_out_and_counted(build):
    kb = build()
    assert kb.table["entity_id"].to_pylist() == ["Q43", "Q26844", "Q3640", "Q406", "Q6256"]
    assert kb.manifest["counts"] == {
        "is a Wikimedia category": 1,
        "is a disambiguation page": 1,
        "is a property": 1,
        "is a scholarly article": 1,
        "kept": 5,
        "no name in en": 1,
        "read": 10,
    }


def test_the_language_is_a_setting(build):
    kb = build(language="de")
    assert kb.table["name"].to_pylist() == ["Türkei", "Istanbul", "Nur deutsch"]
    assert candidates(kb, "republik türkei") == {"Q43": 1.0}


def test_the_prior_comes_from_sitelinks(build):
    assert candidates(build(), "turkey") == pytest.approx({"Q43": 301 / 401, "Q26844": 100 / 401})


def test_the_prior_comes_from_anchor_counts_if_given_and_sitelinks_fill_its_gaps(build, tmp_path):
    (tmp_path / "anchors.tsv").write_text("Turkey\tQ26844\t9\nTURKEY\tQ43\t1\nother\tQ43\t5\n")
    kb = build(anchor_counts=str(tmp_path / "anchors.tsv"))
    # Half a count at most for sitelinks: 100 of them and 301 here.
    bird, country = 9 + 0.5 * 100 / 120, 1 + 0.5 * 301 / 321
    assert candidates(kb, "turkey") == pytest.approx(
        {"Q26844": bird / (bird + country), "Q43": country / (bird + country)}
    )
    (tmp_path / "others.tsv").write_text("other\tQ43\t5\n")
    kb = build(anchor_counts=str(tmp_path / "others.tsv"), folder="others")
    assert candidates(kb, "turkey")["Q43"] > 0.5


def test_popularity_is_a_rank_that_knows_no_scale():
    expected = [-math.log(1 - 1 / 8), -math.log(1 - 4 / 8), -math.log(1 - 4 / 8), -math.log(1 - 7 / 8)]
    for sitelinks in ([0, 5, 5, 90], [0, 50, 50, 900]):
        pieces = [np.array(sitelinks[:1], np.int32), np.array(sitelinks[1:], np.int32)]
        assert np.concatenate(list(popularity(pieces))) == pytest.approx(expected)
    assert [piece.tolist() for piece in popularity([np.array([3, 3], np.int32)])] == [[0, 0]]


def test_few_sitelinks_can_be_left_out(build):
    assert build(min_sitelinks=150).table["entity_id"].to_pylist() == ["Q43", "Q3640", "Q406"]


def test_embeddings_of_linked_entities_are_near(build):
    groups = [[f"Q{10 * group + i}" for i in range(1, 9)] for group in (1, 2)]
    records = [
        item(
            entity_id,
            labels=terms(en=f"name{entity_id}"),
            claims=[item_claim("P1", t) for t in group if t != entity_id],
        )
        for group in groups
        for entity_id in group
    ]
    vectors = build(records).embeddings.astype(np.float32)
    assert vectors[0] @ vectors[1] > 0.4
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[9] + 0.3


@pytest.mark.parametrize("form", ["npy", "tsv", "tsv.gz"])
def test_embeddings_of_biggraph_are_taken(form, build, tmp_path):
    vectors = {"Q43": [3.0, 4.0], "<http://www.wikidata.org/entity/Q406>": [0.0, 2.0], "Q777": [1.0, 1.0]}
    if form == "npy":
        np.save(tmp_path / "v_vectors.npy", np.array(list(vectors.values())))
        (tmp_path / "v_names.json.gz").write_bytes(gzip.compress(json.dumps(list(vectors)).encode()))
    else:
        lines = ["\t".join([name, *map(str, vector)]) for name, vector in vectors.items()]
        text = "\n".join(["3\t2", *lines]).encode()
        (tmp_path / f"v.{form}").write_bytes(gzip.compress(text) if form == "tsv.gz" else text)
    kb = build(embeddings=str(tmp_path / ("v_vectors.npy" if form == "npy" else f"v.{form}")))
    assert kb.embeddings[[0, 1, 3]].tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0, 1]]), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.h5", "", "is no .npy, .tsv or .tsv.gz"),
        ("v.tsv", "Q43\t1\t2\nQ406\t1\t2\t3\n", "Q406 has 3 numbers, those before it 2"),
        ("v.tsv", "Q5\t1\t2\n", "no vector for any of 5 entities"),
    ],
)
def test_embeddings_that_cannot_be_meant_are_refused(name, content, message, build, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        build(embeddings=str(tmp_path / name))


def test_spelling_tells_names_nouns_and_scripts_without_case(tmp_path):
    rows = [
        ("Q1", "Turkey", "", [], 0),
        ("Q2", "giant panda", "", [], 0),
        ("Q3", "宁波", "", [], 0),
        ("Q4", "iPhone", "", [], 0),
    ]
    source = write_entities(tmp_path / "e.jsonl", rows)
    args = KnowledgeBaseArguments(source=str(source), output_dir=str(tmp_path / "kb"), exclusions=None)
    assert KnowledgeBase(build_knowledge_base(args)).is_proper.tolist() == [PROPER, COMMON, CASELESS, PROPER]


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def test_processes_change_no_byte(build, tmp_path, monkeypatch):
    monkeypatch.setattr(read_parts, "PART_BYTES", 600)
    build(folder="one")
    build(folder="two", num_processes=2)
    assert read_files(tmp_path / "one") == read_files(tmp_path / "two")


def wait_to_be_killed(args, folder, *_, **__):
    (folder / "read").touch()
    time.sleep(60)


def test_a_killed_build_resumes_and_parses_no_finished_part_again(build, tmp_path, monkeypatch):
    monkeypatch.setattr(read_parts, "PART_BYTES", 600)
    build(folder="whole")
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("data_scripts.build_knowledge_base.join_sources", wait_to_be_killed)
        build()
        os._exit(0)
    deadline = time.monotonic() + 30
    while not (tmp_path / "kb" / "read").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / "kb" / "read").unlink()
    monkeypatch.setattr(read_parts, "read_record", None)
    build()
    assert read_files(tmp_path / "kb") == read_files(tmp_path / "whole")


def test_a_finished_knowledge_base_is_left_as_it_is(build, tmp_path):
    build()
    before = (tmp_path / "kb" / "aliases.marisa").stat().st_mtime_ns
    build()
    assert (tmp_path / "kb" / "aliases.marisa").stat().st_mtime_ns == before


def test_another_source_in_the_same_folder_is_refused(build):
    build()
    with pytest.raises(ValueError, match="another source or other settings"):
        build(DUMP[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}\n", "no entity that can be kept .*neither `entity_id`"),
        ("not json\n", "no entity that can be kept .*line is no JSON"),
        (
            '{"entity_id": "Q1", "name": "a", "aliases": "tiger"}\n',
            "line 1: `aliases` must be a list of texts",
        ),
        (
            '{"entity_id": "Q1", "name": "a"}\n{"entity_id": "Q2", "name": "b", "types": "Q5"}\n',
            "line 2: `types` must",
        ),
        ('{"entity_id": "Q1", "name": ""}\n', "no entity that can be kept"),
    ],
)
def test_sources_that_cannot_be_meant_are_refused(content, message, tmp_path):
    (tmp_path / "e.jsonl").write_text(content)
    args = KnowledgeBaseArguments(source=str(tmp_path / "e.jsonl"), output_dir=str(tmp_path / "kb"), exclusions=None)
    with pytest.raises(ValueError, match=message):
        build_knowledge_base(args)


def test_an_exclusion_needs_a_reason(tmp_path):
    (tmp_path / "x.yaml").write_text("- {type: Q1, name: thing}\n")
    with pytest.raises(ValueError, match="type, name and reason"):
        read_exclusions(str(tmp_path / "x.yaml"))
