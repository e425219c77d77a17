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
        ("İZMİR", "izmir"),
        ("i\u0307zmir", "izmir"),
        ("IĞDIR", "iğdir"),
        ("Iğdır", "iğdir"),
        ("ΑΘΗΝΑ", "αθηνα"),
        ("Αθήνα", "αθηνα"),
        ("ΟΔΟΣ", "οδοσ"),
        ("A\u030angstro\u0308m", "ångström"),
        ("か\u3099く", "がく"),
        ("東京ﾀﾜｰ", "東京タワー"),
        ("gra\u00adna\u200bte \u2068apple\u2069\ufe0f", "granate apple"),
        ("宁波\u200b地铁", "宁波地铁"),
        ("ق\u0640ط\u0640ر", "قطر"),
        ("snow\u3164leopard", "snow leopard"),
        ("snow\u2013leopard", "snow leopard"),
        ("snow \u2013 leopard", "snow\x1fleopard"),
        ("Hawaiʻi Gabon´s O‘Neil", "hawai'i gabon's o'neil"),
        ("snow+leopard.png", "snow leopard png"),
        ("C++11 and C#", "c++ 11 and c#"),
        ("é C++11 and C#", "é c++ 11 and c#"),
        ("red#panda", "red\x1fpanda"),
    ],
)
def test_key_folds_case_width_and_separators(text, key):
    assert alias_key(text) == key


def test_strong_separators_stay_between_words():
    assert alias_key("red, panda | shop") == "red\x1fpanda\x1fshop"


def test_camel_case_of_file_names_is_cut_and_of_sentences_is_not():
    assert alias_key("RedPanda.png") == "red panda png"
    assert alias_key("my iPhone photo") == "my iphone photo"
    assert alias_key("#NYCMarathon #VisitUSA #ParisFC") == "nyc marathon\x1fvisit usa\x1fparis fc"
    assert alias_key("my#ÉcoleÉlan2019 PDFs") == "my\x1fécole élan 2019 pdfs"
    assert alias_key("https://a.org/RedPanda.png?w=300") == "red panda png w\x1f300"


@pytest.mark.parametrize(
    "text",
    ["Größe der İstanbul-Flagge 🐙 ﬁsh", "a\u0301 ก็ดี مَدرَسة", "x" * 1_000_000, "caf&eacute; <b>O</b>&#39;Neil %C3%A9"],
)
def test_tokens_keep_their_place_in_the_original_text(text):
    tokens = tokenize_text(text)
    for start, end, word in zip(tokens.starts, tokens.ends, tokens.words, strict=True):
        assert alias_key(text[start:end]) == word != ""


def test_context_words_are_singular_and_no_numbers():
    assert content_tokens("flags 2019 cherries glass bus") == ["flag", "cherry", "glass", "bus"]
