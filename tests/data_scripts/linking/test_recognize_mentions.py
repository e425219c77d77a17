import pytest
import spacy

from data_scripts.linking.recognize_mentions import open_spacy, recognize_mentions
from data_scripts.linking.statistics import learn_statistics, write_text_statistics


def found(text, knowledge_base, **options):
    batch = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base, **options)
    return [mention["text"] for mention in batch["mentions"][0]]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("1F419_octopus.svg", ["octopus"]),
        ("flag-maldives.png", ["maldives"]),
        ("RedPanda.png", ["RedPanda"]),
        ("animal, octopus, sea", ["octopus"]),
        ("Coke | COCA COLA", ["Coke", "COCA COLA"]),
        ("apple's cherries and hot springs", ["apple's", "cherries", "hot springs"]),
        ("octopus2.png", ["octopus2"]),
        ("octopuses", ["octopuses"]),
        ("red, panda", []),
        ("pineapple octopusland", []),
        ("the next one", []),
        ("Türkiye und SÃO PAULO", ["Türkiye", "SÃO PAULO"]),
        ("宁波地铁站", ["宁波地铁"]),
        ("DSC00220", []),
        ("#RedPanda #octopus2019", ["RedPanda", "octopus"]),
        ("#CocaCola or red&nbsp;panda&#39;s", ["CocaCola", "red&nbsp;panda&#39;s"]),
        ("red%20panda.jpg", ["red%20panda"]),
        ("red+panda.jpg", ["red+panda"]),
        ("octo\u00adpus\u200d of \u200eS&atilde;o<br>Paulo\u200f", ["octo\u00adpus", "S&atilde;o<br>Paulo"]),
        ("@octopus octopus@apple.com \u043ectopus", []),
        ("TÜRKİYE", ["TÜRKİYE"]),
    ],
)
def test_longest_aliases_on_token_boundaries(text, mentions, knowledge_base):
    assert found(text, knowledge_base) == mentions


@pytest.mark.parametrize(
    "text",
    [
        "🐙 octopus\u0301 Türkiye ﬁsh apple",
        "שלום octopus مرحبا",
        "octopus\ufffdapple",
        "S&#227;o%20Paulo",
        "x" * 10_000 + " octopus",
    ],
)
def test_offsets_index_the_original_text(text, knowledge_base):
    batch = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base)
    assert batch["mentions"][0]
    for mention in batch["mentions"][0]:
        assert text[mention["start"] : mention["end"]] == mention["text"]


def test_rows_without_mention_are_dropped_with_a_reason(knowledge_base):
    batch = recognize_mentions({"alt_text": ["octopus", ""]}, knowledge_base=knowledge_base)
    assert batch["drop_reason"] == [None, "no mention"]


@pytest.fixture(scope="module")
def ruled_spacy(tmp_path_factory):
    """A pipeline whose `ner` is a list of names: what it finds is known beforehand."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler", name="ner")
    names = [("PERSON", "Fiona Apple"), ("ORG", "Coca-Cola"), ("GPE", "Atlantis"), ("CARDINAL", "two")]
    ruler.add_patterns([{"label": label, "pattern": name} for label, name in names])
    path = tmp_path_factory.mktemp("spacy") / "model"
    nlp.to_disk(path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("Coca-Cola", [("Coca-Cola", "alias+ner")]),
        ("Fiona Apple", [("Apple", "alias in ner")]),
        ("octopus of Atlantis", [("octopus", "alias"), ("Atlantis", "ner")]),
        ("two octopuses", [("octopuses", "alias")]),
    ],
)
def test_names_of_the_model_join_the_aliases(text, mentions, knowledge_base, ruled_spacy):
    batch = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base, spacy_model=ruled_spacy)
    assert [(mention["text"], mention["recognizer"]) for mention in batch["mentions"][0]] == mentions


def test_a_text_longer_than_the_model_takes_is_read_at_its_beginning(knowledge_base, ruled_spacy, monkeypatch):
    monkeypatch.setattr(open_spacy(ruled_spacy), "max_length", 40)
    text = "Atlantis and Atlantis and an octopus, Coca-Cola and Atlantis"
    batch = recognize_mentions({"alt_text": [text]}, knowledge_base=knowledge_base, spacy_model=ruled_spacy)
    mentions = [(mention["start"], mention["recognizer"]) for mention in batch["mentions"][0]]
    assert mentions == [(0, "ner"), (13, "ner"), (29, "alias"), (38, "alias")]


def test_words_of_texts_do_not_stay_in_the_model(knowledge_base, ruled_spacy):
    nlp = open_spacy(ruled_spacy)
    found("octopus", knowledge_base, spacy_model=ruled_spacy)
    before = len(nlp.vocab.strings)
    for number in range(3):
        texts = [f"octopus word{number}x{row} other{number}x{row}" for row in range(100)]
        recognize_mentions({"alt_text": texts}, knowledge_base=knowledge_base, spacy_model=ruled_spacy)
    assert len(nlp.vocab.strings) == before


def test_a_pipeline_without_ner_is_refused(tmp_path, knowledge_base):
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="no `ner`"):
        found("octopus", knowledge_base, spacy_model=str(tmp_path / "blank"))


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("a maldivse beach", ["maldivse"]),
        ("OCTOPPUS", ["OCTOPPUS"]),
        ("octopus of the maldivse", ["octopus"]),  # The text has a match.
        ("aple", []),  # Short.
        ("maldivsee", []),  # Two letters.
        ("a cherrry", []),  # In many texts.
    ],
)
def test_a_letter_may_be_wrong_where_a_text_has_no_match(text, mentions, knowledge_base, tmp_path):
    texts = [f"cherrry {first}{second}" for first in "abcde" for second in "abcde"]
    statistics = tmp_path / "statistics.npz"
    write_text_statistics(learn_statistics(texts, knowledge_base=knowledge_base, language="en"), statistics)
    assert found(text, knowledge_base, typos=str(statistics)) == mentions
    assert found(text, knowledge_base) == [mention for mention in mentions if mention == "octopus"]
