from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.statistics import learn_statistics


NAMES = ["octopus", "apple", "cherry", "red panda", "maldives", "coke", "hot spring", "são paulo"]


def boilerplate(texts, knowledge_base, **options):
    kb = open_knowledge_base(knowledge_base)
    statistics = learn_statistics(texts, knowledge_base=knowledge_base, language="en", **options)
    return [kb.aliases.restore_key(alias) for alias in statistics.boilerplate]


def test_a_word_of_many_texts_beside_ever_others_is_boilerplate(knowledge_base):
    texts = [f"free {name} clipart {style}" for name in NAMES for style in ("round", "flat", "old")]
    assert boilerplate(texts, knowledge_base) == ["free"]


def test_a_frequent_word_that_often_stands_alone_is_not(knowledge_base):
    texts = [f"octopus {style}" for style in "abcdefghijklmnopqrstuvw"]
    assert boilerplate(texts, knowledge_base) == []


def test_texts_that_differ_in_numbers_count_once(knowledge_base):
    texts = [f"free octopus {number}" for number in range(100)]
    assert boilerplate(texts, knowledge_base) == []


def test_listed_words_are_boilerplate_whatever_the_texts_say(knowledge_base):
    assert boilerplate(["apple"], knowledge_base, boilerplate=["Free", "no alias"]) == ["free"]
