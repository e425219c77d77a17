import numpy as np
import pytest
import torch

from evaluation.knn import knn


def test_the_sweep_equals_voting_for_each_k_alone():
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.nn.functional.normalize(torch.randn(rows, 5, generator=generator)) for rows in (20, 60))
    query_labels, gallery_labels = [i % 4 for i in range(20)], [i % 4 for i in range(60)]
    arguments = (query, query_labels, gallery, gallery_labels)
    swept = knn(*arguments, ks=[1, 7, 20], temperature=0.07)
    alone = knn(*arguments, ks=[7], temperature=0.07)
    assert list(swept) == ["k=1", "k=7", "k=7 weighted", "k=20", "k=20 weighted"]
    for name, scores in alone.items():
        np.testing.assert_array_equal(scores, swept[name])


def test_a_k_beyond_the_gallery_is_left_out_and_said(caplog):
    assert list(knn(torch.eye(3), [0, 0, 0], ks=[1, 50], temperature=0.07)) == ["k=1"]
    assert "only k up to 1 fit a gallery of 2 images" in caplog.text


def test_no_k_that_fits_is_refused():
    with pytest.raises(ValueError, match=r"No k of \[50\] fits a gallery of 2 images"):
        knn(torch.eye(3), [0, 0, 0], ks=[50], temperature=0.07)


def test_string_labels_vote():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    scores = knn(torch.tensor([[1.0, 0.0]]), ["b"], gallery, ["a", "b", "b"], ks=[1, 3], temperature=0.07)
    assert {name: values.tolist() for name, values in scores.items()} == {
        "k=1": [0.0],
        "k=3": [1.0],
        "k=3 weighted": [0.0],
    }


def test_neighbors_vote_for_each_of_their_labels():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = [("a", "b"), ("b", "c"), ("a",)]
    scores = knn(torch.tensor([[1.0, 0.0]]), [("b", "z")], gallery, labels, ks=[1, 2], temperature=0.07)
    assert scores["k=1"].tolist() == scores["k=2"].tolist() == [1.0]
    scores = knn(torch.tensor([[1.0, 0.0]]), [("a", "z")], gallery, labels, ks=[1, 2], temperature=0.07)
    assert scores["k=1"].tolist() == [1.0] and scores["k=2"].tolist() == [0.0]  # With two, b has two votes.
