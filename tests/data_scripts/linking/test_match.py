"""The remembered runs of tokens against a plain search, in every script and after the memory was emptied."""

import random

import pytest
from tiny_build import write_entities

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking import match
from data_scripts.linking.match import AliasMatcher
from data_scripts.text.letter_case import text_case
from data_scripts.text.tokens import alias_key, tokenize_text


NAMES = (
    *("berry", "cat", "cat flap", "cat flap door", "cow", "flap", "new", "new york", "new york city", "york, england"),
    *(
        "C++",
        "ประเทศไทย",
        "ไทย",
        "قطر",
        "علم قطر",
        "भारत",
        "서울",
        "東京",
        "東京タワー",
        "Αθήνα",
        "Москва",
        "são paulo",
    ),
)
STOP_WORDS = frozenset({"the", "new"})
PIECES = (
    *(
        "cat",
        "Cats",
        "cat's",
        "cat2",
        "flap",
        "FLAP",
        "door",
        "berries",
        "new",
        "New",
        "York",
        "yorks",
        "City",
        "england",
    ),
    *(
        " ",
        " ",
        " ",
        "_",
        "-",
        ", ",
        " | ",
        "",
        ".",
        "\u0000",
        "🐙",
        "\u200d",
        "\u202e",
        "\ud800",
        "e\u0301",
        "ﬂap",
        "Ⅷ",
    ),
    *("C++", "ประเทศไทย", "ไทยสวย", "قطر", "علم", "भारत", "서울", "東京", "タワー", "ΑΘΉΝΑ", "москва", "São", "Paulo"),
)


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aliases")
    entities = [(f"Q{number}", name, "", [], 0) for number, name in enumerate(NAMES)]
    source = write_entities(folder / "entities.jsonl", entities)
    return KnowledgeBase(
        build_knowledge_base(KnowledgeBaseArguments(str(source), str(folder / "kb"), exclusions=None))
    )


def search_plainly(text, kb):
    """Tries every number of tokens at every place, longest first; knows nothing of tries and of memory."""
    keys = {alias_key(name): kb.aliases[alias_key(name)] for name in NAMES}
    tokens = tokenize_text(text)
    found, first = [], 0
    while first < len(tokens.words):
        for last in range(len(tokens.words), first, -1):
            joined = zip(tokens.words[first:last], [*tokens.joints[first : last - 1], ""], strict=True)
            alias = plain_lookup("".join(word + joint for word, joint in joined), keys, is_single=last == first + 1)
            if alias is not None:
                break
        else:
            first += 1
            continue
        start, end = tokens.starts[first], tokens.ends[last - 1]
        is_name = first > 0 and text[start].isupper() and text_case(text) == "mixed"
        if is_name or not set(tokens.words[first:last]) <= STOP_WORDS:
            found.append((start, end, alias))
        first = last
    return found


def plain_lookup(key, keys, *, is_single):
    """The alias of a key, of the key less an ending or number, or of its singular in -y."""
    endings = ["", *match.ENDINGS, *(key[-length:] for length in (1, 2, 3) if key[-length:].isdigit())]
    for ending in sorted(endings, key=len):
        stem = key[: len(key) - len(ending)]
        if key.endswith(ending) and stem in keys and (not ending or len(stem) >= match.MIN_STEM):
            return keys[stem]
    return keys.get(key[:-3] + "y") if is_single and key.endswith("ies") and len(key) > 6 else None


def test_matches_are_those_of_a_plain_search_on_three_thousand_texts(kb):
    generator = random.Random(0)
    matcher = AliasMatcher(kb, STOP_WORDS)
    texts = ["".join(generator.choices(PIECES, k=generator.randint(1, 9))) for _ in range(3000)]
    found = {text: matcher.match(text) for text in texts}
    assert sum(map(bool, found.values())) > 1200
    assert found == {text: search_plainly(text, kb) for text in texts}


def test_a_full_memory_is_emptied_and_changes_nothing(kb, monkeypatch):
    texts = [f"cat flap {number} new york city" for number in range(50)]
    expected = [AliasMatcher(kb, STOP_WORDS).match(text) for text in texts]
    monkeypatch.setattr(match, "MAX_RUNS", 10)
    matcher = AliasMatcher(kb, STOP_WORDS)
    assert [matcher.match(text) for text in texts] == expected
    assert len(matcher.runs) <= 10


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("แผนที่ประเทศไทยสวย", ["ประเทศไทย"]),
        ("علم قطر الجديد", ["علم قطر"]),
        ("भारत का ध्वज", ["भारत"]),
        ("서울 야경", ["서울"]),
        ("夜の東京タワーと東京", ["東京タワー", "東京"]),
        ("ΑΘΉΝΑ, МОСКВА", ["ΑΘΉΝΑ", "МОСКВА"]),
        ("cat-flap_door.png", ["cat-flap_door"]),
        ("York, England", ["York, England"]),
        ("york england", []),
    ],
)
def test_names_are_found_in_any_script(text, found, kb):
    matches = AliasMatcher(kb, STOP_WORDS).match(text)
    assert [text[start:end] for start, end, _ in matches] == found


def test_a_name_in_camel_case_is_one_word_where_it_is_an_alias(tmp_path):
    names = ("catflap", "cow", "new york", "york")
    source = write_entities(tmp_path / "entities.jsonl", [(f"Q{i}", name, "", [], 0) for i, name in enumerate(names)])
    arguments = KnowledgeBaseArguments(str(source), str(tmp_path / "kb"), exclusions=None)
    matcher = AliasMatcher(KnowledgeBase(build_knowledge_base(arguments)), STOP_WORDS)
    text = "#NewYork #CatFlap #CowCow"
    assert [text[start:end] for start, end, _ in matcher.match(text)] == ["NewYork", "CatFlap", "Cow", "Cow"]


def test_a_text_of_a_megabyte_is_matched_to_its_end(kb):
    text = "x y " * 250_000 + "cat flap"
    assert AliasMatcher(kb, STOP_WORDS).match(text) == [(1_000_000, 1_000_008, kb.aliases["cat flap"])]
