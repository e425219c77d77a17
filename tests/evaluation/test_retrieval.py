import numpy as np
import torch

from evaluation.retrieval import is_alone, one_query_per_class, retrieval, split_queries


EMBEDS = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.6, 0.5]]))


def test_a_class_with_one_image_counts_nowhere_when_left_out():
    scores = retrieval(EMBEDS, ["a", "a", "b", "b", "c"])
    np.testing.assert_array_equal(scores["mAP"], [1, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(scores["1-NN"], [1, 1, 1, 1, np.nan])


def test_a_kept_query_counts_in_map_and_never_in_1_nn():
    scores = retrieval(EMBEDS, ["a", "a", "b", "b", "c"], keep_query=True)
    np.testing.assert_array_equal(scores["mAP"], np.ones(5))
    np.testing.assert_array_equal(scores["1-NN"], [1, 1, 1, 1, np.nan])


def test_a_class_absent_from_the_gallery_counts_nowhere():
    scores = retrieval(EMBEDS[:2], ["a", "z"], EMBEDS, ["a", "a", "b", "b", "c"])
    assert np.isnan(scores["mAP"]).tolist() == np.isnan(scores["1-NN"]).tolist() == [False, True]


def test_the_first_image_of_each_class_searches_the_others():
    scores = one_query_per_class(EMBEDS, ["a", "a", "b", "b", "c"])
    np.testing.assert_array_equal(scores["1-NN"], [1, 1, np.nan])


def test_images_that_share_any_label_match():
    scores = retrieval(EMBEDS[:4], [("a", "x"), ("b", "a"), ("c",), ("c", "a")])
    np.testing.assert_allclose(scores["mAP"], [(1 + 2 / 2) / 2, (1 + 2 / 2) / 2, 1, (1 + 2 / 2 + 3 / 3) / 3])
    assert is_alone([("a", "x"), ("b", "a"), ("c",), ("d",)]).tolist() == [False, False, True, True]
    assert [rows.tolist() for rows in split_queries([("b", "a"), ("a",), ("c", "b"), ("c",)])] == [[0, 2], [1, 3]]
