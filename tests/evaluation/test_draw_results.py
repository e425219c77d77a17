import pytest
from PIL import Image

from evaluation.benchmark import Benchmark
from evaluation.draw_results import FoundImages, draw_bars
from evaluation.labeled_images import open_images
from evaluation.results import Result, Value
from evaluation.retrieval import evaluate_retrieval


@pytest.fixture
def found(pixels, colors_file):
    benchmark = Benchmark(data=colors_file, label_column="color", caption_column="alt_text", color_column="number")
    images = open_images(colors_file, label_column="color")
    return FoundImages(benchmark, images, None, {"pixels": evaluate_retrieval(benchmark, pixels, query=images)})


def test_all_figures_of_a_benchmark_are_drawn(found, tmp_path):
    found.draw_all(tmp_path / "figures", "my test", count=2, seed=0)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["my-test-best.png", "my-test-map.png", "my-test-retrievals.png", "my-test-worst.png"]
    assert all(Image.open(tmp_path / "figures" / name).width > 400 for name in names)


def test_the_worst_queries_are_the_first_models_lowest_one_per_class(found, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(found, "draw_sheet", lambda path, queries, title: drawn.append((queries, title)))
    found.found["pixels"].by_query["mAP"][[9, 8, 2]] = [0.1, 0.2, 0.3]
    found.draw_extreme(tmp_path / "x.png", count=2, is_best=False)
    assert drawn == [([9, 2], "worst queries of pixels")]


def test_bars_of_several_benchmarks_show_their_first_metric(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr("evaluation.draw_results.bar_chart", lambda path, bars, title: drawn.update(bars))
    values = {"mAP": Value(0.5), "1-NN": Value(0.9)}
    draw_bars(tmp_path / "x.png", [Result(name, "retrieval", "data", "a", values) for name in ("one", "two")])
    assert drawn == {"a": {"one: mAP": Value(0.5), "two: mAP": Value(0.5)}}


def test_a_class_with_one_query_is_drawn_with_its_gallery(pixels, colors_file, tmp_path):
    benchmark = Benchmark(data=colors_file, gallery=colors_file, label_column="color", limit=1)
    query, gallery = (open_images(colors_file, label_column="color", limit=limit) for limit in (1, None))
    scores = evaluate_retrieval(benchmark, pixels, query=query, gallery=gallery)
    FoundImages(benchmark, query, gallery, {"pixels": scores}).draw_random(tmp_path / "found.png", count=2, seed=0)
    assert Image.open(tmp_path / "found.png").width > 400


def test_one_query_per_class_is_drawn_with_the_other_images(pixels, colors_file, monkeypatch, tmp_path):
    benchmark = Benchmark(data=colors_file, label_column="color", one_query_per_class=True)
    images = open_images(colors_file, label_column="color")
    found = FoundImages(benchmark, images, None, {"pixels": evaluate_retrieval(benchmark, pixels, query=images)})
    assert (found.first().query.rows, len(found.first().gallery.rows)) == ([8, 4, 0], 9)  # blue, green, red
    found.draw_all(tmp_path / "figures", "one", count=2, seed=0)
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_without_a_query_to_show_no_sheet_is_drawn(found, tmp_path, caplog):
    found.draw_sheet(tmp_path / "none.png", [])
    assert not (tmp_path / "none.png").exists() and "is not drawn" in caplog.text
