import evaluate
import numpy as np
import pytest
import torch

from metrics.recall_at_k.recall_at_k import best_rank, recall


def tied_rows(num_rows, seed=0):
    """Small whole numbers: exact in every precision, with many equal scores."""
    return torch.randint(-2, 3, (num_rows, 6), generator=torch.Generator().manual_seed(seed)).float()


def brute_force(query, query_labels, gallery, gallery_labels):
    """Sorts each row of scores in plain Python: by score, then by index."""
    ranks = []
    for scores, label in zip((query @ gallery.T).tolist(), query_labels, strict=True):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        ranks.append(next((rank for rank, i in enumerate(order, start=1) if gallery_labels[i] == label), np.nan))
    return np.array(ranks, dtype=float)


@pytest.mark.parametrize("scores_per_chunk", [1, 200, 2**24])
def test_any_chunk_size_equals_brute_force_with_ties(scores_per_chunk):
    query, gallery = tied_rows(30), tied_rows(47, seed=1)
    query_labels, gallery_labels = [i % 8 for i in range(30)], [i % 7 for i in range(47)]
    ranks = best_rank(query, query_labels, gallery, gallery_labels, scores_per_chunk=scores_per_chunk)
    np.testing.assert_array_equal(ranks, brute_force(query, query_labels, gallery, gallery_labels))


def test_a_query_without_anything_relevant_has_no_rank():
    ranks = best_rank(np.eye(2), ["a", "z"], np.eye(2), ["a", "b"])
    np.testing.assert_array_equal(recall(ranks, 1), [1.0, np.nan])


def test_any_shared_label_is_relevant():
    ranks = best_rank(np.eye(1), [["a", "b"]], np.array([[0.9], [0.8], [0.7]]), ["z", ["y", "b"], "a"])
    assert ranks.tolist() == [2.0]


def test_without_a_gallery_each_query_searches_the_others():
    embeds = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    np.testing.assert_array_equal(best_rank(embeds, ["a", "b", "b", "c"]), [np.nan, 3.0, 2.0, np.nan])


def test_the_module_loads_from_its_path_and_counts():
    metric = evaluate.load("metrics/recall_at_k")
    gallery = np.array([[1.0], [0.9], [0.8]])
    result = metric.compute(
        image_embeds=[[1.0], [1.0], [1.0]],
        labels=[0, 2, 9],
        gallery_embeds=gallery,
        gallery_labels=[0, 1, 2],
        ks=[1, 3],
    )
    assert result == {"recall@1": 0.5, "recall@3": 1.0, "num_queries": 2, "num_excluded": 1}


def test_a_nan_row_of_the_gallery_is_named():
    with pytest.raises(ValueError, match=r"1 gallery embeddings .* rows \[0\]"):
        best_rank(np.eye(1), [0], np.array([[np.inf]]), [0])
