import json

from benchmarks.entity_linking import build_once, precision_and_recall, split_texts


def test_a_prediction_counts_once_and_only_where_the_gold_was_made():
    line = {
        "text": "x" * 50,
        "evaluated": [10, 50],
        "ignored": [{"start": 40, "end": 45}],
        "mentions": [
            {"start": 10, "end": 14, "entity_id": "Q1"},
            {"start": 10, "end": 14, "entity_id": "Q2"},
            {"start": 20, "end": 24, "entity_id": "Q3"},
        ],
    }
    # Right; wrong entity; outside the range; over an ignored span.
    links = {(10, 14, "Q2"), (20, 24, "Q9"), (0, 4, "Q3"), (44, 48, "Q3")}
    measured = precision_and_recall([line], [links])
    assert measured == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "predicted": 2, "mentions": 2}


def test_sentences_end_at_a_mark_before_a_space():
    assert split_texts(["One . Two v1.2! Three"], into="sentences") == ["One .", "Two v1.2!", "Three"]


def test_equal_entities_at_another_path_find_the_same_knowledge_base(tmp_path):
    text = json.dumps({"entity_id": "Q1", "name": "octopus", "description": "sea animal"})
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    for path in (first, second):
        path.write_text(text + "\n", encoding="utf-8")
    assert build_once(str(first), tmp_path) == build_once(str(second), tmp_path)
