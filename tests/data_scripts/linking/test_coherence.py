import json

import numpy as np
import pytest

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.candidates import Candidates
from data_scripts.linking.coherence import (
    COHERENCE,
    DIRECT_LINK,
    LeadingCandidates,
    coherence,
    relatedness,
    similarity,
)


LINKS = {"Q0": ["Q4", "Q5"], "Q1": ["Q2"], "Q2": ["Q4"], "Q3": [], "Q4": [], "Q5": [], "Q6": ["Q5"]}


@pytest.fixture
def kb(tmp_path):
    rows = [{"entity_id": key, "name": f"name {key}", "links": links} for key, links in LINKS.items()]
    source = tmp_path / "entities.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)
    return open_knowledge_base(str(build_knowledge_base(arguments)))


def make_candidates(entities):
    """Candidates of the mentions of one text, and of a text with one mention after it."""
    mention = np.repeat(np.arange(len(entities)), [len(rows) for rows in entities])
    num = len(entities)
    text = np.r_[np.zeros(num - 1, np.int64), 1]
    empty = np.zeros(num, np.int64)
    return Candidates(mention, np.concatenate(entities), mention, mention, empty, text, empty, [{}] * num)


def neighbor_cosine(first, second):
    """The naive cosine of the weighted links of two entities and themselves."""
    indegree = {key: sum(key in links for links in LINKS.values()) for key in LINKS}
    weight = {key: np.log((1 + len(LINKS)) / (1 + count)) for key, count in indegree.items()}
    near = [{key, *LINKS[key]} for key in (first, second)]
    norms = [np.sqrt(sum(weight[key] ** 2 for key in keys)) for keys in near]
    return sum(weight[key] ** 2 for key in near[0] & near[1]) / (norms[0] * norms[1])


def test_relatedness_is_the_mean_over_other_mentions_of_the_best_cosine_and_direct_link(kb):
    flat = make_candidates([[0, 3], [1, 2], [6], [0]])
    leading = LeadingCandidates.of(flat, np.zeros(6))
    found, _ = relatedness(leading, kb)
    assert leading.candidate.tolist() == [0, 1, 2, 3, 4]
    best = max(neighbor_cosine("Q0", "Q1"), neighbor_cosine("Q0", "Q2"))
    expected = (best + neighbor_cosine("Q0", "Q6")) / 3
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[1] == 0


def test_a_direct_link_counts_whichever_way_it_goes(kb):
    flat = make_candidates([[1], [2], [0]])
    found, _ = relatedness(LeadingCandidates.of(flat, np.zeros(3)), kb)
    assert found == pytest.approx([(DIRECT_LINK + neighbor_cosine("Q1", "Q2")) / 2] * 2, rel=1e-5)


def test_a_mention_that_is_nearer_counts_more(kb):
    flat = make_candidates([[0], [3], [1], [2], [0]])
    _, near = relatedness(LeadingCandidates.of(flat, np.zeros(5)), kb)
    expected = neighbor_cosine("Q0", "Q1") / 2 + neighbor_cosine("Q0", "Q2") / 3
    assert near[0] == pytest.approx(expected, rel=1e-5)


def test_any_relation_tells_where_a_mention_has_few(kb):
    flat = make_candidates([[0, 2, 3], [1, 6], [0]])
    found = coherence(flat, np.zeros(6), kb, dict.fromkeys(COHERENCE, 0.0))
    related = found["relatedness"][:3]
    assert related[2] == 0 and 0 < related[0] != related[1] > 0
    assert found["relative_relatedness"][:3] == pytest.approx(related / related.max())


def test_similarity_equals_the_naive_mean_of_best_cosines(kb):
    entities = [[0, 3], [1, 2, 5], [6], [0]]
    flat = make_candidates(entities)
    found = similarity(LeadingCandidates.of(flat, np.arange(7, 0, -1.0)), kb)
    vectors = kb.embeddings.astype(np.float64)
    expected = [
        sum(max(max(0, vectors[row] @ vectors[other]) for other in entities[m]) for m in range(3) if m != own) / 3
        for own in range(3)
        for row in entities[own]
    ]
    assert found == pytest.approx(expected, abs=1e-5)
