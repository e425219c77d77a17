import pytest

from data_scripts.text.letter_case import SPELLINGS, spelling_class, text_case
from data_scripts.text.tokens import hash_token
from data_scripts.text.word_case import lower_odds


@pytest.mark.parametrize(
    ("text", "mention", "spelling"),
    [
        ("Anna is free in London", "free", "lower_in_mixed"),
        ("an apple", "apple", "lower_in_lower"),
        ("a red panda", "red panda", "lower_phrase"),
        ("A journey through Turkey", "Turkey", "capital"),
        ("Turkey seen by Anna", "Turkey", "first_capital"),
        ("Anna left. Turkey seen by Anna", "Turkey", "first_capital"),
        ("A Journey Through Turkey", "Turkey", "title"),
        ("TURKEY IN MAY", "TURKEY", "capitals"),
        ("flag PNG", "PNG", "other"),
        ("flag of 2020", "2020", "other"),
    ],
)
def test_the_spelling_of_a_mention_is_read_by_its_text(text, mention, spelling):
    assert spelling_class(text, text.index(mention), mention) == spelling
    assert spelling in SPELLINGS


def test_a_text_in_title_case_shows_no_choice():
    assert [text_case(text) for text in ("A Day In The Park", "A day in Paris", "a day", "A DAY")] == [
        "title",
        "mixed",
        "lower",
        "capitals",
    ]


def test_a_word_of_descriptions_in_lower_case_is_a_word_and_in_capitals_a_name():
    words, odds = lower_odds(["face of a clock", "faces", "city in China", "port of China"])
    found = dict(zip(words.tolist(), odds.tolist(), strict=True))
    assert found[hash_token("face")] > 0 > found[hash_token("china")]
    assert hash_token("unseen") not in found
