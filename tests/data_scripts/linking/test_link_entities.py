import math

import numpy as np
import pytest
from tiny_build import write_entities

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.link_evidence import LinkWeights
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.linking.statistics import MAX_CASE_EVIDENCE, learn_statistics, write_text_statistics
from data_scripts.text.letter_case import uses_capitals


@pytest.fixture
def link(knowledge_base, tmp_path):
    """Links one text, having read some others."""

    def run(text, corpus=(), weights=None, **options):
        path = tmp_path / "statistics.npz"
        write_text_statistics(learn_statistics(corpus, knowledge_base=knowledge_base, language="en"), path)
        batch = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base)
        options |= {"weights": weights} if weights else {}
        return link_entities(batch, knowledge_base=knowledge_base, statistics=str(path), **options)

    return run


def entity_ids(batch):
    return [candidate["entity_id"] for candidate in batch["candidates"][0]]


def test_lower_case_speaks_for_the_common_noun(link):
    assert entity_ids(link("an apple")) == ["Q4"]


def test_a_capital_inside_a_sentence_speaks_for_the_name(link):
    assert entity_ids(link("A journey through Turkey")) == ["Q3"]


def test_a_brand_in_lower_case_beside_capitals_is_nil(link):
    batch = link("Anna is free in London")
    assert batch["candidates"] == [[]]
    assert batch["drop_reason"] == ["nothing likely"]


def test_the_prior_decides_when_nothing_else_speaks(link):
    weights = LinkWeights().without("coherence", "description", "context")
    batch = link("TURKEY", weights=weights)
    assert entity_ids(batch) == ["Q3"]
    assert batch["candidates"][0][0]["prior"] == pytest.approx(201 / (201 + 41), abs=1e-6)


def test_other_entities_of_the_text_speak_for_their_kind(link):
    weights = LinkWeights(prior=0.3).without("description", "context")
    with_animals = link("OCTOPUS, RED PANDA, TURKEY", weights=weights, min_candidate_probability=0.0)
    with_countries = link("MALDIVES, TURKEY", weights=weights, min_candidate_probability=0.0)
    assert probability(with_animals, "Q2") > probability(with_countries, "Q2")


def probability(batch, entity_id):
    return next(c["probability"] for c in batch["candidates"][0] if c["entity_id"] == entity_id)


def test_words_of_the_description_speak_for_the_entity(link):
    weights = LinkWeights().without("coherence", "context")
    alone = link("TURKEY", weights=weights, min_candidate_probability=0.0)
    described = link("TURKEY, A FARM BIRD", weights=weights, min_candidate_probability=0.0)
    assert probability(described, "Q2") > probability(alone, "Q2")


def test_words_that_go_with_a_kind_of_entity_are_learned_from_the_texts(link):
    corpus = [f"{word} of maldives {word}" for word in ("flag", "banner", "emblem")] + ["flag maldives"] * 3
    corpus += [f"flag maldives {number}" for number in "abcdefgh"]
    learned = link("flag turkey", corpus=corpus, min_candidate_probability=0.0)
    unlearned = link("flag turkey", min_candidate_probability=0.0)
    assert probability(learned, "Q3") > probability(unlearned, "Q3")


def test_every_likely_candidate_stays_for_the_image_to_decide(link):
    assert set(entity_ids(link("turkey", min_candidate_probability=0.01))) == {"Q2", "Q3"}


def test_a_batch_gives_what_its_rows_give(knowledge_base, tmp_path):
    path = str(tmp_path / "statistics.npz")
    write_text_statistics(
        learn_statistics([], knowledge_base=knowledge_base, language="en"), tmp_path / "statistics.npz"
    )
    texts = ["OCTOPUS, TURKEY", "no entity", "flag of Turkey", "apple"]
    together = recognize_mentions({"alt_text": list(texts)}, knowledge_base=knowledge_base)
    together = link_entities(together, knowledge_base=knowledge_base, statistics=path)
    for row, text in enumerate(texts):
        alone = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base)
        alone = link_entities(alone, knowledge_base=knowledge_base, statistics=path)
        assert alone["candidates"][0] == together["candidates"][row]


def test_a_name_that_the_texts_write_in_lower_case_is_less_a_proper_name_at_the_beginning_too(link):
    options = {
        "weights": LinkWeights().without("coherence", "description", "context"),
        "min_candidate_probability": 0.0,
    }
    corpus = [f"Let Anna have a free {word}" for word in ("cup", "hat", "bag", "pen", "lamp", "chair", "desk")]
    before = probability(link("Free cup", **options), "Q12")
    after = probability(link("Free cup", corpus=corpus, **options), "Q12")
    assert math.log(after / (1 - after)) - math.log(before / (1 - before)) == pytest.approx(-MAX_CASE_EVIDENCE)


def test_texts_without_a_choice_of_case_teach_nothing_about_it(knowledge_base):
    texts = ["FREE CUP", "free cup", "Free cup", "Free Cup Of Tea"] * 5
    learned = learn_statistics(texts, knowledge_base=knowledge_base, language="en")
    assert len(learned.case_aliases) == 0
    assert learned.case_evidence_of(np.array([0, 1])).tolist() == [0, 0]


def test_the_case_of_texts_is_learned_as_log_odds(knowledge_base):
    texts = [
        "a walk in Turkey",
        "see Turkey today",
        "Paris and turkey in May",
        "Anna is free in May",
    ]
    learned = learn_statistics(texts, knowledge_base=knowledge_base, language="en")
    aliases = open_knowledge_base(knowledge_base).aliases
    found = learned.case_evidence_of(np.array([aliases["free"], aliases["octopus"], aliases["turkey"]]))
    assert found == pytest.approx([math.log(1 / 2), 0, math.log(3 / 2)])


def test_an_alias_in_capitals_and_one_that_is_not_the_name_need_more_to_be_meant(tmp_path):
    entities = [("Q1", "HEAD", "maker of rackets", [], 9), ("Q2", "Head", "maker of skis", ["Brio"], 9)]
    source = write_entities(tmp_path / "entities.jsonl", entities)
    folder = str(build_knowledge_base(KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)))
    write_text_statistics(learn_statistics([], knowledge_base=folder, language="en"), tmp_path / "statistics.npz")
    batch = recognize_mentions({"alt_text": ["head", "brio", "HEAD"]}, knowledge_base=folder)
    weights = LinkWeights(lower_in_lower=0, coverage=0).without("coherence", "description", "context")
    options = {"knowledge_base": folder, "statistics": str(tmp_path / "statistics.npz"), "weights": weights}
    lower, other, upper = link_entities(batch, **options, min_candidate_probability=0.0)["candidates"]
    odds = {c["entity_id"]: c["probability"] for c in lower}
    assert odds["Q1"] / odds["Q2"] == pytest.approx(math.exp(weights.only_capitals))
    assert other[0]["probability"] == pytest.approx(1 / (1 + math.exp(weights.nil - weights.other_name)))
    assert upper[0]["probability"] == pytest.approx(upper[1]["probability"])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Illustration of an apple", False),
        ("Visit Paris today", True),
        ("1F419_octopus.SVG", False),
        ("flag PNG HD", False),
    ],
)
def test_first_words_and_acronyms_do_not_show_that_a_text_uses_capitals(text, answer):
    assert uses_capitals(text) is answer
