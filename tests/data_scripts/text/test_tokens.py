import pytest

from data_scripts.text.tokens import alias_key, content_tokens, tokenize_text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1F419_octopus.svg", "1f419 octopus svg"),
        ("flag-maldives.png", "flag maldives png"),
        ("Coca-Cola", "coca cola"),
        ("AT&T", "at t"),
        ("ＦＵＬＬ width", "full width"),
        ("Straße", "strasse"),
        ("宁波地铁 logo", "宁波地铁 logo"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("קפה תל־אביב", "קפה תל אביב"),
        ("O’Neil's", "o'neil's"),
        ("C++", "c++"),
        ("…!?", ""),
    ],
)
def test_key_folds_case_width_and_separators(text, key):
    assert alias_key(text) == key


def test_strong_separators_stay_between_words():
    assert alias_key("red, panda | shop") == "red\x1fpanda\x1fshop"


def test_camel_case_of_file_names_is_cut_and_of_sentences_is_not():
    assert alias_key("RedPanda.png") == "red panda png"
    assert alias_key("my iPhone photo") == "my iphone photo"


@pytest.mark.parametrize("text", ["Größe der İstanbul-Flagge 🐙 ﬁsh", "a\u0301 ก็ดี مَدرَسة", "x" * 1_000_000])
def test_tokens_keep_their_place_in_the_original_text(text):
    tokens = tokenize_text(text)
    for start, end, word in zip(tokens.starts, tokens.ends, tokens.words, strict=True):
        assert alias_key(text[start:end]) == word != ""


def test_context_words_are_singular_and_no_numbers():
    assert content_tokens("flags 2019 cherries glass bus") == ["flag", "cherry", "glass", "bus"]
