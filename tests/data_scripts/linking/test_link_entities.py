import json

import numpy as np
import pytest
from tiny_build import write_entities

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.candidates import gather_candidates
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.link_weights import FILE, PARTS, default_weights
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics
from data_scripts.linking.text_words import TextWords
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
    batch = link("TURKEY", weights=default_weights().without("coherence", "text", "case"))
    assert entity_ids(batch) == ["Q3"]
    assert batch["candidates"][0][0]["prior"] == pytest.approx(201 / (201 + 41), abs=1e-6)


def test_other_entities_of_the_text_speak_for_their_kind(link):
    weights = default_weights().without("text")
    with_animals = link("OCTOPUS, RED PANDA, TURKEY", weights=weights, min_candidate_probability=0.0)
    with_countries = link("MALDIVES, TURKEY", weights=weights, min_candidate_probability=0.0)
    assert probability(with_animals, "Q2") > probability(with_countries, "Q2")


def probability(batch, entity_id):
    return next(c["probability"] for c in batch["candidates"][0] if c["entity_id"] == entity_id)


def test_words_of_the_description_speak_for_the_entity(link):
    weights = default_weights().without("coherence")
    alone = link("TURKEY", weights=weights, min_candidate_probability=0.0)
    described = link("TURKEY, A FARM BIRD", weights=weights, min_candidate_probability=0.0)
    assert share(described, "Q2") > share(alone, "Q2")


def share(batch, entity_id):
    """P(candidate), given that one of the candidates of the last mention is meant."""
    of_mention = [c for c in batch["candidates"][0] if c["mention"] == batch["candidates"][0][-1]["mention"]]
    return probability(batch, entity_id) / sum(c["probability"] for c in of_mention)


def test_words_that_go_with_a_kind_of_entity_are_learned_from_the_texts(link):
    corpus = [f"{word} of maldives {word}" for word in ("flag", "banner", "emblem")] + ["flag maldives"] * 3
    corpus += [f"flag maldives {number}" for number in "abcdefgh"]
    learned = link("flag turkey", corpus=corpus, min_candidate_probability=0.0)
    unlearned = link("flag turkey", min_candidate_probability=0.0)
    assert probability(learned, "Q3") > probability(unlearned, "Q3")


def test_a_word_of_the_name_speaks_for_the_entity(tmp_path):
    entities = [("Q1", "Anna Merkel", "painter", ["Merkel"], 9), ("Q2", "Germany", "country", ["Merkel"], 9)]
    source = write_entities(tmp_path / "entities.jsonl", entities)
    folder = str(build_knowledge_base(KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)))
    kb = open_knowledge_base(folder)
    batch = recognize_mentions({"alt_text": ["Merkel"]}, knowledge_base=folder)
    flat = gather_candidates(batch["mentions"], kb, dropped=np.array([]))
    found = TextWords.of(batch, flat, frequent=np.array([])).description_evidence(flat, kb)
    assert dict(zip(kb.entity_ids(flat.entity), found["named"].tolist(), strict=True)) == {"Q1": 1, "Q2": 0}
    assert found["description"].tolist() == [0, 0]


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


def test_a_name_that_the_texts_write_in_lower_case_is_less_a_name_at_the_beginning_too(link):
    corpus = [f"Let Anna have a free {word}" for word in ("cup", "hat", "bag", "pen", "lamp", "chair", "desk")]
    options = {"weights": default_weights().without("text"), "min_candidate_probability": 0.0, "min_probability": 0.0}
    assert probability(link("Free cup", corpus=corpus, **options), "Q12") < probability(
        link("Free cup", **options), "Q12"
    )


def test_function_words_in_title_case_name_nothing(link):
    assert link("Summer Is Next To The Sea")["mentions"] == [[]]
    assert [mention["text"] for mention in link("shirts of Next on sale")["mentions"][0]] == ["Next"]


def test_a_probability_is_the_share_of_a_candidate_times_that_of_any_being_meant(link):
    batch = link("a journey through Turkey", min_candidate_probability=0.0, min_probability=0.0)
    total = sum(candidate["probability"] for candidate in batch["candidates"][0])
    assert 0 < total < 1
    assert link("a journey through Turkey", min_probability=total + 1e-6)["candidates"] == [[]]
    assert entity_ids(link("a journey through Turkey", min_probability=total - 1e-6)) == ["Q3"]


def test_an_alias_that_is_not_the_name_is_not_penalized_in_the_prior(tmp_path):
    entities = [("Q1", "Brio", "maker of toys", [], 9), ("Q2", "Orbit", "maker of skis", ["Brio"], 9)]
    source = write_entities(tmp_path / "entities.jsonl", entities)
    folder = str(build_knowledge_base(KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)))
    kb = open_knowledge_base(folder)
    first = kb.offsets[kb.aliases["brio"]]
    assert kb.priors[first : first + 2].tolist() == [0.5, 0.5]


def test_every_piece_of_evidence_has_a_fitted_weight():
    document = json.loads(FILE.read_text(encoding="utf-8"))
    assert document["fitted"].keys() >= {"on", "date", "how", "command"}
    parts = {name for names in PARTS.values() for name in names}
    assert parts <= document["choice"].keys() | document["meaning"].keys()


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
