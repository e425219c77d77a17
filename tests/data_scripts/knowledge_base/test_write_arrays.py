"""The arrays of a knowledge base are what a naive reading of the whole table says, however they are cut."""

import json
import random

import numpy as np
import pytest

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base import graph_embeddings, write_aliases, write_entities
from data_scripts.knowledge_base.graph_embeddings import write_graph_embeddings
from data_scripts.knowledge_base.store import ONLY_CAPITALS, OWN_NAME, KnowledgeBase
from data_scripts.text.tokens import alias_key


WORDS = ("Lake", "lake", "HEAD", "head", "of", "São", "Paulo", "red-panda", "Panda", "zebra", "Éire", "东京", "x")


@pytest.fixture(scope="module")
def records():
    """400 entities whose names share words and keys."""
    generator = random.Random(0)

    def text():
        return " ".join(generator.choices(WORDS, k=generator.randint(1, 3)))

    return [
        {
            "entity_id": f"Q{number}",
            "name": text(),
            "description": text(),
            "aliases": [text() for _ in range(generator.randint(0, 4))],
            "num_sitelinks": generator.randint(0, 9),
            "links": [f"Q{generator.randint(0, 500)}" for _ in range(generator.randint(0, 3))],
        }
        for number in range(400)
    ]


@pytest.fixture
def build(records, tmp_path):
    """Builds a knowledge base of the records."""
    source = tmp_path / "own.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def build(name, **settings):
        settings = {"exclusions": None} | settings
        return build_knowledge_base(KnowledgeBaseArguments(str(source), str(tmp_path / name), **settings))

    return build


def naive_candidates(records):
    """By key, the entities that have it with weight and bits, most sitelinks first."""
    found = {}
    for row, record in enumerate(records):
        written = [record["name"], *record["aliases"]]
        for key in dict.fromkeys(map(alias_key, written)):
            same = [alias for alias in written if alias_key(alias) == key]
            form = OWN_NAME * (alias_key(record["name"]) == key)
            form |= ONLY_CAPITALS * (len(key) > 1 and all(alias.isupper() for alias in same))
            found.setdefault(key, []).append((record["num_sitelinks"] + 1, row, form))
    return {key: sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:64] for key, pairs in found.items()}


def candidates_of(kb, key):
    """What the alias table says about a key."""
    place = slice(*kb.offsets[kb.aliases[key] :][:2])
    return kb.candidates[place].tolist(), kb.candidate_forms[place].tolist(), kb.priors[place]


@pytest.mark.parametrize("max_pairs", [1_000_000, 100])
def test_aliases_have_the_candidates_of_a_naive_reading_in_one_trie_or_many(max_pairs, build, records, monkeypatch):
    monkeypatch.setattr(write_aliases, "MAX_PAIRS", max_pairs)
    monkeypatch.setattr(write_entities, "CHUNK_ROWS", 90)
    kb = KnowledgeBase(build("kb"))
    expected = naive_candidates(records)
    assert len(kb.aliases) == len(expected) == len(kb.offsets) - 1
    assert (len(list(kb.folder.glob("*.marisa"))) > 3) == (max_pairs == 100)
    for key, pairs in expected.items():
        rows, forms, priors = candidates_of(kb, key)
        assert (rows, forms) == ([row for _, row, _ in pairs], [form for _, _, form in pairs])
        assert np.allclose(
            priors, np.array([weight for weight, _, _ in pairs]) / sum(weight for weight, _, _ in pairs)
        )


def test_many_tries_look_up_as_one_does(build, monkeypatch):
    one = KnowledgeBase(build("one")).aliases
    monkeypatch.setattr(write_aliases, "MAX_PAIRS", 100)
    many = KnowledgeBase(build("many")).aliases
    for key in one.iterkeys():
        assert many.restore_key(many[key]) == key
        longer = key + " and more"
        assert longer not in many and many.get(longer, -1) == -1
        found = [prefix for prefix, _ in many.iter_prefixes_with_ids(longer)]
        assert found == [prefix for prefix, _ in one.iter_prefixes_with_ids(longer)]
        assert sorted(many.iterkeys(key[:3])) == sorted(one.iterkeys(key[:3]))
    assert "" not in many and "\U0010ffff" not in many


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_how_entities_are_cut_and_who_works_changes_no_byte(build, monkeypatch):
    whole = read_files(build("whole"))
    for name, size in (("chunks", 90), ("small chunks", 7)):
        monkeypatch.setattr(write_entities, "CHUNK_ROWS", size)
        cut = read_files(build(name, num_processes=2))
        # Arrow keeps the chunks apart, and the manifest has its hash.
        different = {file for file in whole if cut[file] != whole[file]}
        assert different == {"entities.arrow", "manifest.json"}


def normalize(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def center(rows):
    rows = normalize(rows)
    filled = rows.any(axis=1, keepdims=True)
    return normalize((rows - rows.sum(axis=0) / filled.sum()) * filled)


def naive_embeddings(links, words, weights):
    """FastRP over dense matrices [entities, entities] and [entities, words]."""
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 2, (words.shape[1], 64), dtype=np.int8) * 2.0 - 1
    by_words = 0
    for weight in (0.3, 1.0, 1.0):
        entities = center(words @ (signs * weights[:, None]))
        by_words, signs = by_words + weight * entities, normalize(words.T @ entities)
    current, total, by_words = (
        generator.integers(0, 2, (len(words), 64), dtype=np.int8) * 2.0 - 1,
        0,
        normalize(by_words),
    )
    for weight in (1.0, 0.5):
        current = center(links @ current) + normalize(by_words)
        total = total + weight * normalize(current)
    return normalize(total)


@pytest.mark.parametrize(("block_rows", "num_threads"), [(1000, 1), (40, 1), (40, 3)])
def test_embeddings_are_those_of_dense_matrices(block_rows, num_threads, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_embeddings, "BLOCK_ROWS", block_rows)
    generator = np.random.default_rng(1)
    links, words = generator.random((100, 100)) < 0.02, generator.random((100, 30)) < 0.1
    weights = generator.random(1 << 20).astype(np.float32)
    used = np.flatnonzero(words.any(axis=0))
    ragged = [
        (np.r_[0, np.cumsum(matrix.sum(axis=1))], np.nonzero(matrix)[1].astype(np.int32)) for matrix in (links, words)
    ]
    path = tmp_path / "embeddings.npy"
    write_graph_embeddings(path, *ragged, inverse_frequency=weights, scratch=tmp_path, num_threads=num_threads)
    expected = naive_embeddings(links, words[:, used], weights[used].astype(np.float64))
    assert np.abs(np.load(path) - expected).max() < 1e-3
    assert list(tmp_path.iterdir()) == [path]
