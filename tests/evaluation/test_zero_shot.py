import numpy as np
import pytest
import torch

from evaluation import zero_shot
from evaluation.benchmark import Benchmark, Embedder
from evaluation.encoders import PixelEncoder, load_encoder
from evaluation.label_sets import weighted_by_class
from evaluation.labeled_images import open_images
from evaluation.zero_shot import classify, embed_classes, evaluate_zero_shot
from tests.evaluation.conftest import COLORS, picture


class ColorEncoder(PixelEncoder):
    """Embeds an image as its mean color and a text as the colors that it names."""

    has_text_tower = True

    def embed_images(self, inputs):
        return super().embed_images(inputs).view(-1, 256, 3).mean(dim=1)

    def embed_texts(self, texts):
        return torch.tensor([[float(name in text) for name in COLORS] for text in texts]) + 0.01


@pytest.fixture
def colors(tmp_path):
    return Embedder(ColorEncoder(torch.device("cpu")), tmp_path / "embeddings", batch_size=2)


def test_classes_are_named_by_their_prompts(colors, colors_file):
    benchmark = Benchmark(task="zero_shot", data=colors_file)
    scores = evaluate_zero_shot(benchmark, colors, query=open_images(colors_file, label_column="color"))
    assert scores.by_query["accuracy"].tolist() == [1.0] * 12
    assert scores.counts == {"classes": 3, "prompts": 8}


def test_each_prompt_has_unit_length_in_the_mean_and_the_mean_has_unit_length(colors, monkeypatch):
    texts = {"long red": [10.0, 0.0, 0.0], "short red": [0.0, 0.1, 0.0]}
    monkeypatch.setattr(colors.encoder, "embed_texts", lambda batch: torch.tensor([texts[text] for text in batch]))
    (embedded,) = embed_classes(colors, ["red"], ["long {}", "short {}"])
    torch.testing.assert_close(embedded, torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))


def test_more_prompts_than_fit_a_batch_give_the_same_classes(clip_folder, tmp_path):
    prompts = [f"a {word} {{}}" for word in ("photo", "thing", "green", "blue", "red")]
    encoder = load_encoder(clip_folder)
    small, large = (
        embed_classes(Embedder(encoder, tmp_path / str(size), batch_size=size), ["red", "blue"], prompts)
        for size in (2, 100)
    )
    torch.testing.assert_close(small, large)


def test_the_mean_per_class_weighs_classes_alike():
    correct, labels = np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"]
    assert weighted_by_class(correct, labels).mean() == pytest.approx(0.5)


def test_a_class_without_images_may_be_predicted_and_does_not_count(colors, write_rows, tmp_path):
    (tmp_path / "names.json").write_text('{"0": "red", "1": "green", "2": "blue"}')
    data = write_rows(image=[picture(COLORS["red"]), picture(COLORS["blue"])], number=[0, 1])
    benchmark = Benchmark(task="zero_shot", data=data, class_names=str(tmp_path / "names.json"))
    scores = evaluate_zero_shot(benchmark, colors, query=open_images(data, label_column="number"))
    assert scores.by_query["accuracy"].tolist() == [1.0, 0.0]
    assert scores.by_query["per class"].mean() == pytest.approx(0.5)


def test_the_first_of_equally_near_classes_wins(monkeypatch):
    assert classify(torch.ones(3, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), rows=2) == [1, 1, 1]
    assert zero_shot.first_of_largest(torch.tensor([[1.0, 2.0, 2.0]])).tolist() == [1]


def test_an_image_of_several_classes_counts_in_the_mean_of_each():
    # Class a: images 0, 1, 3 with 1, 0, 1; class b: images 1, 2 with 0, 1.
    weighted = weighted_by_class(np.array([1.0, 0.0, 1.0, 1.0]), ["a", ("a", "b"), "b", ("a",)])
    assert weighted.mean() == pytest.approx((2 / 3 + 1 / 2) / 2)
