import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import figures
from evaluation.figures import Pictures, bar_chart, choose_queries, embedding_map, nearest_rows, retrieval_sheet
from evaluation.results import Value


GREEN = tuple(int(figures.RIGHT[i : i + 2], 16) for i in (1, 3, 5))


def green_share(path):
    """How much of a picture is the green of the frames."""
    return (np.asarray(Image.open(path).convert("RGB")) == GREEN).all(axis=2).mean()


@pytest.fixture
def pictures():
    return Pictures(lambda row: Image.new("RGB", (20, 30), "navy"), ["a", "a", "b", "b"], ["apple"] * 2 + ["bee"] * 2)


def test_right_images_are_framed_green_and_wrong_ones_are_not(pictures, tmp_path):
    right, wrong = torch.eye(2)[[0, 0, 1, 1]], torch.eye(4)
    retrieval_sheet(tmp_path / "right.png", pictures, {"model": right}, [0, 2])
    pictures.labels = list("abcd")
    retrieval_sheet(tmp_path / "wrong.png", pictures, {"model": wrong}, [0, 2])
    assert green_share(tmp_path / "right.png") > 0.001
    assert green_share(tmp_path / "wrong.png") == 0


def test_models_stand_side_by_side(pictures, tmp_path):
    retrieval_sheet(tmp_path / "one.png", pictures, {"a": torch.eye(4)}, [0])
    retrieval_sheet(tmp_path / "two.png", pictures, {"a": torch.eye(4), "b": torch.eye(4)}, [0])
    assert Image.open(tmp_path / "two.png").width > 1.5 * Image.open(tmp_path / "one.png").width


def test_a_gallery_is_shown_instead_of_the_queries(pictures, tmp_path):
    gallery = Pictures(pictures.read, ["a"], ["apple"])
    embeds = {"model": torch.eye(4)}
    retrieval_sheet(
        tmp_path / "sheet.png", pictures, embeds, [0], gallery=gallery, gallery_embeds={"model": torch.eye(4)[:1]}
    )
    assert green_share(tmp_path / "sheet.png") > 0


def test_a_query_does_not_find_itself():
    assert nearest_rows(torch.ones(4, 1), [2, 0], None).tolist() == [[0, 1, 3], [1, 2, 3]]


def test_queries_are_of_different_classes_that_have_another_image():
    labels = ["a", "a", "b", "b", "c"]
    rows = choose_queries(labels, count=5, seed=0)
    assert sorted(labels[row] for row in rows) == ["a", "b"]
    assert rows == choose_queries(labels, count=5, seed=0)


@pytest.mark.parametrize("count", [4, 40])
def test_a_map_has_a_panel_per_model(tmp_path, count):
    embeds = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    groups = [f"group {i % 12}" for i in range(count)]
    embedding_map(tmp_path / "map.png", {"a": embeds, "b": embeds}, groups)
    assert Image.open(tmp_path / "map.png").width > 900


def test_bars_have_the_height_of_the_value(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    bar_chart(tmp_path / "x.png", {"a": {"mAP": Value(0.25, 0.2, 0.3), "1-NN": Value(0.5)}, "b": {"mAP": Value(0.75)}})
    heights = [round(bar.get_height(), 2) for bar in drawn[0].axes[0].patches]
    assert heights == [0.25, 0.5, 0.75]
    matplotlib.pyplot.close("all")


def test_names_are_drawn_as_they_stand(pictures, tmp_path):
    pictures.captions = ["Ba$$in", "$", "a_b^c", "\\frac{1"]
    retrieval_sheet(tmp_path / "names.png", pictures, {"$model$": torch.eye(4)}, [0, 2], title="$")
    assert (tmp_path / "names.png").stat().st_size > 0


def test_a_caption_without_a_font_gives_way_to_the_label(pictures, monkeypatch):
    monkeypatch.setattr(figures, "known_letters", lambda: frozenset(map(ord, "Crème_ Q1")))
    pictures.captions, pictures.labels = ["Crème", "\u718a\u732b"], ["Q1", "Q1"]
    assert [pictures.caption(row) for row in (0, 1)] == ["Crème", "Q1"]


def test_the_fonts_know_the_letters_of_the_world_that_they_draw():
    assert figures.drawable("Łódź Ω 日本" if len(figures.FONTS) > 1 else "Łódź Ω", "id") != "id"
    assert figures.drawable("\U0001fae8\U000f0000", "id") == "id"
