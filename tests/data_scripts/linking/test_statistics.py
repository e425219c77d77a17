import math

import pytest
from tiny_build import write_entities

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import learn_statistics, look_up, most_common
from data_scripts.text.tokens import hash_token


NAMES = ["octopus", "apple", "cherry", "red panda", "maldives", "coke", "hot spring", "são paulo"]
FREE = [f"free {name} clipart {style}" for name in NAMES for style in ("round", "flat", "old")]


def learn(texts, knowledge_base, **options):
    return learn_statistics(texts, knowledge_base=knowledge_base, language="en", **options)


def common(texts, knowledge_base, **options):
    learned = learn(texts, knowledge_base, **options)
    return {name: value for name, _, value in most_common(learned, open_knowledge_base(knowledge_base), limit=100)}


def test_a_word_of_many_texts_that_never_stands_alone_is_the_most_common(knowledge_base):
    found = common(FREE, knowledge_base)
    assert next(iter(found)) == "free"
    assert found["free"] == pytest.approx(math.log1p(20 * 24 / (24 + 200)) * (1 - 1 / 27), rel=1e-5)


def test_a_frequent_word_that_stands_alone_is_not_common(knowledge_base):
    alone = common([f"octopus {style}" for style in "abcdefghijklmnopqrstuvw"], knowledge_base)
    assert alone["octopus"] < 0.1 * common(FREE, knowledge_base)["free"]


def test_commonness_does_not_grow_with_the_corpus(knowledge_base):
    texts = [
        f"{name} {a}{b}" for name in ("free octopus", *["no name"] * 9) for a in "abcdefghij" for b in "abcdefghij"
    ]
    texts += [f"plain {a}{b}{c}" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghi"]
    small, large = (
        common(texts, knowledge_base),
        common([f"{text} {x}" for text in texts for x in "abc"], knowledge_base),
    )
    assert large["free"] == pytest.approx(small["free"], rel=0.2)


def test_texts_that_differ_in_numbers_count_once(knowledge_base):
    learned = learn([f"free octopus {number}" for number in range(100)], knowledge_base)
    assert set(learned.num_texts.tolist()) <= {1}


def test_listed_words_are_dropped_and_words_to_keep_are_never_common(knowledge_base):
    learned = learn(FREE, knowledge_base, boilerplate=["Apple", "no alias"], not_boilerplate=["Free"])
    kb = open_knowledge_base(knowledge_base)
    assert [kb.aliases.restore_key(alias) for alias in learned.dropped] == ["apple"]
    assert kb.aliases["free"] not in learned.common_aliases


def test_words_for_the_picture_itself_name_nothing_unless_listed(tmp_path):
    entities = [("Q1", "photograph", "picture made by light", ["photo"], 9), ("Q2", "photo booth", "machine", [], 9)]
    source = write_entities(tmp_path / "entities.jsonl", entities)
    folder = str(build_knowledge_base(KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)))
    kb = open_knowledge_base(folder)
    dropped = [kb.aliases.restore_key(alias) for alias in learn([], folder).dropped.tolist()]
    assert sorted(dropped) == ["photo", "photograph"]
    assert len(learn([], folder, not_boilerplate=["photo", "Photograph"]).dropped) == 0


def test_only_texts_with_a_choice_of_case_teach_how_words_are_written(knowledge_base):
    texts = ["FREE CUP", "free cup", "Free cup", "Free Cup Of Tea"] * 5
    assert len(learn(texts, knowledge_base).cased_tokens) == 0


def test_the_case_of_words_is_learned_as_log_odds_of_lower_case(knowledge_base):
    learned = learn(["a walk in Turkey", "see Turkey today", "Paris and turkey in May"], knowledge_base)
    words = [hash_token(word) for word in ("turkey", "walk", "octopus")]
    odds = look_up(learned.cased_tokens, learned.lower_odds, words)
    assert odds == pytest.approx([math.log(1.5 / 2.5), math.log(1.5 / 0.5), 0])
