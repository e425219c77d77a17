"""What the demo shows is escaped, linked and marked."""

from html_parts import answer_html, entity_link, knowledge_base_link, marked_text, row_html
from i2e_browser import ShownEntity, ShownRow

from modeling_mofi.search.entity_index import EntityAnswer, FoundEntity


def answer(*, known_confidence=None):
    entities = [
        FoundEntity("Q1", "<b>Tower</b>", "a & b", 0.42, known_confidence),
        FoundEntity("mine:1", "Hut", "", 0.1),
    ]
    return EntityAnswer(entities, known_confidence)


def test_wikidata_ids_become_links_and_others_do_not():
    assert 'href="https://www.wikidata.org/wiki/Q42"' in entity_link("Q42")
    assert "href" not in entity_link("mine:1") and "&lt;" in entity_link("<script>")


def test_names_and_descriptions_are_escaped():
    shown = answer_html(answer())
    assert "&lt;b&gt;Tower&lt;/b&gt;" in shown and "a &amp; b" in shown and "cosine 0.42" in shown


def test_nothing_known_is_said_first():
    assert answer_html(answer(known_confidence=0.2)).index("nothing that this index knows (80%)") < 150
    assert "nothing" not in answer_html(answer(known_confidence=0.9)) + answer_html(answer())
    assert "something that this index knows (90%)" in answer_html(answer(known_confidence=0.9))


def test_mentions_are_marked_once_where_they_overlap():
    assert marked_text("The Eiffel Tower <1889>", [(4, 16), (11, 16), (18, 22)]) == (
        "The <mark>Eiffel Tower</mark> &lt;<mark>1889</mark>&gt;"
    )


def test_dropped_entities_have_their_reason():
    entities = [ShownEntity("Q1", "Tower", 0.31), ShownEntity("Q2", "Paris", 0.12, "not in the image")]
    shown = row_html(ShownRow(b"", "Tower in Paris", [(0, 5)], entities))
    assert "Tower</a><small> 0.31<" in shown
    assert "Paris</a><small> 0.12 · not in the image<" in shown
    assert "No entity was found" in row_html(ShownRow(b"", "a picture"))


def test_how_likely_an_entity_is_is_shown_where_it_is_known():
    entities = [ShownEntity("Q1", "Tower", 0.31, prior=0.5, probability=0.9), ShownEntity("Q2", "Paris", 0.12)]
    shown = row_html(ShownRow(b"", "Tower in Paris", [(0, 5)], entities))
    assert shown.count('title="90% likely in this text, 50% wherever the name stands"') == shown.count("likely") == 1


def test_a_knowledge_base_of_the_hub_is_linked_and_a_folder_is_not():
    link = knowledge_base_link("me/kb@" + "a" * 40)
    assert f'href="https://huggingface.co/datasets/me/kb/tree/{"a" * 40}"' in link and ">me/kb</a>" in link
    assert (
        not knowledge_base_link("/home/ann/kb") + knowledge_base_link("me/<b>@" + "a" * 40) + knowledge_base_link("")
    )
