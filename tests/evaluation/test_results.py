import json

import numpy as np
import pytest

from evaluation.results import Result, Value, markdown_tables, mean_with_interval, model_index, write_results


def result(model, benchmark="test", task="retrieval", **values):
    return Result(benchmark, task, "owner/data", model, {name: Value(value) for name, value in values.items()})


def test_the_interval_is_that_of_the_mean():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 400)
    value = mean_with_interval(scores)
    assert value.value == pytest.approx(scores.mean())
    assert (value.low, value.high) == pytest.approx((scores.mean() - 0.0098, scores.mean() + 0.0098), abs=0.001)


def test_excluded_queries_are_no_part_of_the_mean():
    value = mean_with_interval(np.array([1.0, np.nan, 0.0]), num_resamples=10)
    assert (value.value, value.num_queries) == (0.5, 2)


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(0).random(50)
    assert mean_with_interval(scores, seed=3) == mean_with_interval(scores, seed=3)
    assert mean_with_interval(scores, seed=3) != mean_with_interval(scores, seed=4)


def test_no_query_at_all_is_not_a_number():
    assert np.isnan(mean_with_interval(np.array([np.nan])).value)


def test_the_table_marks_the_best_and_shows_published_numbers():
    table = markdown_tables([result("a", mAP=0.25), result("b", mAP=0.5)], {"MOFI (paper)": {"test": {"mAP": 0.8666}}})
    assert table.splitlines() == [
        "| test | mAP |",
        "|:--|--:|",
        "| a | 0.2500 |",
        "| b | **0.5000** |",
        "| *MOFI (paper)* | 0.8666 |",
    ]


def test_several_benchmarks_of_a_task_get_their_mean():
    results = [result("a", "one", mAP=0.25), result("a", "two", mAP=0.75), result("b", "one", mAP=0.5)]
    assert markdown_tables(results).splitlines()[-3:] == [
        "| retrieval | mAP, mean of 2 benchmarks |",
        "|:--|--:|",
        "| a | 0.5000 |",
    ]


def test_a_metric_that_a_model_lacks_stays_empty():
    assert "| b |  |" in markdown_tables([result("a", mAP=0.25), Result("test", "retrieval", "data", "b", {})])


def test_json_holds_null_for_what_is_not_a_number(tmp_path):
    write_results(tmp_path / "out" / "r.json", [result("a", mAP=float("nan"))], settings={"seed": 0}, published={})
    document = json.loads((tmp_path / "out" / "r.json").read_text(), parse_constant=pytest.fail)
    assert document["results"][0]["values"]["mAP"]["value"] is None
    assert document["settings"] == {"seed": 0}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["r.json", "r.md", "r.model-index.json"]


def test_the_metadata_is_that_of_a_model_card():
    (entry,) = model_index([result("mofi", mAP=0.5), result("mofi", "two", "zero_shot", accuracy=0.25)])
    assert entry["name"] == "mofi"
    first, second = entry["results"]
    assert first["dataset"] == {"name": "test", "type": "owner/data"}
    assert first["metrics"] == [{"type": "mAP", "value": 0.5}]
    assert second["task"] == {"type": "zero-shot-image-classification", "name": "zero_shot"}


def test_models_are_averaged_over_the_same_metric():
    results = [
        Result(name, "entity_recognition", "data", model, {metric: Value(0.5) for metric in metrics})
        for name in ("one", "two")
        for model, metrics in {"mofi": ["head top-1", "text top-1"], "clip": ["text top-1"]}.items()
    ]
    assert "| entity_recognition | text top-1, mean of 2 benchmarks |" in markdown_tables(results)
