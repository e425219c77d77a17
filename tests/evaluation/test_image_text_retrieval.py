import numpy as np
import torch

from evaluation.benchmark import Benchmark
from evaluation.image_text_retrieval import evaluate_image_text_retrieval, image_text_recall, texts_of_rows
from evaluation.labeled_images import open_images
from tests.evaluation.conftest import COLORS, picture
from tests.evaluation.test_zero_shot import colors  # noqa: F401


def test_any_text_of_an_image_is_right_for_it():
    images = torch.eye(2)
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.8]])
    scores = image_text_recall(images, [0, 1], texts, [0, 0, 1])
    assert scores["image to text R@1"].tolist() == [1.0, 0.0]
    assert scores["text to image R@1"].tolist() == [0.0, 1.0, 1.0]
    assert scores["image to text R@5"].tolist() == [1.0, 1.0]


def test_rows_hold_one_text_or_several_and_empty_ones_are_left_out():
    assert texts_of_rows(["a", ["b", "c"], None, "", "d"], [0, 1, 2, 3]) == (["a", "b", "c"], [0, 1, 1])


def test_texts_of_unreadable_images_are_not_searched(colors, write_rows):  # noqa: F811
    files = [picture(COLORS["red"]), b"broken", picture(COLORS["blue"])]
    data = write_rows(image=files, alt_text=["red", "green", "blue"])
    benchmark = Benchmark(task="image_text_retrieval", text_column="alt_text")
    scores = evaluate_image_text_retrieval(benchmark, colors, query=open_images(data))
    assert scores.counts == {"texts": 2}
    np.testing.assert_array_equal(scores.by_query["text to image R@1"], [1.0, 1.0])
