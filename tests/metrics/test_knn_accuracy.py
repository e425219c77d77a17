import evaluate
import numpy as np
import pytest
import torch

from metrics.knn_accuracy import knn_accuracy
from metrics.knn_accuracy.knn_accuracy import knn_correct, nearest, vote


def tied_rows(num_rows, seed=0):
    """Small whole numbers: exact in every precision, with many equal scores."""
    return torch.randint(-2, 3, (num_rows, 6), generator=torch.Generator().manual_seed(seed)).float()


def sorted_by_hand(query, gallery, k, leave_out):
    """Gallery indices by score, then by index, in plain Python."""
    lines = []
    for row, scores in enumerate((query @ gallery.T).tolist()):
        order = [i for i in range(len(scores)) if not (leave_out and i == row)]
        lines.append(sorted(order, key=lambda i: (-scores[i], i))[:k])
    return lines


@pytest.mark.parametrize("k", [1, 3, 38])
@pytest.mark.parametrize("scores_per_chunk", [1, 100, 2**24])
def test_neighbors_equal_brute_force_with_ties(k, scores_per_chunk):
    embeds = tied_rows(39)
    _, neighbors = nearest(embeds, k=k, scores_per_chunk=scores_per_chunk)
    assert neighbors.tolist() == sorted_by_hand(embeds, embeds, k, leave_out=True)


@pytest.mark.parametrize("gallery_per_chunk", [4, 7, 1000])
@pytest.mark.parametrize("leave_out", [True, False])
def test_a_gallery_in_chunks_equals_brute_force_with_ties(monkeypatch, gallery_per_chunk, leave_out):
    monkeypatch.setattr(knn_accuracy, "GALLERY_PER_CHUNK", gallery_per_chunk)
    query = tied_rows(30)
    gallery = query if leave_out else tied_rows(53, seed=1)
    _, neighbors = nearest(query, None if leave_out else gallery, k=9)
    assert neighbors.tolist() == sorted_by_hand(query, gallery, 9, leave_out)


def test_bf16_features_are_scored_in_fp32():
    embeds = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, neighbors = nearest(embeds, k=5)
    assert neighbors.tolist() == sorted_by_hand(embeds.float(), embeds.float(), 5, leave_out=True)


def vote_by_name(scores, labels, temperature=None):
    """The winner of each row of neighbors; a neighbor's label is a string, or a list of them."""
    names = sorted({name for row in labels for label in row for name in label})
    width = max(len(label) for row in labels for label in row)
    codes = [[[names.index(n) + 1 for n in label] + [0] * (width - len(label)) for label in row] for row in labels]
    winners = vote(torch.tensor(scores), torch.tensor(codes), temperature).tolist()
    return ["".join(sorted(names[code - 1] for code in row if code)) for row in winners]


def test_the_majority_wins_and_the_nearest_decides_a_draw():
    assert vote_by_name([[0.9, 0.8, 0.7]] * 3, ["abb", "abc", "baa"]) == ["b", "a", "a"]


def test_a_neighbor_votes_for_each_of_its_labels():
    labels = [["a", "bc", "b"], ["x", "ba", "ab"], ["cb", "bc", "a"], ["ax", "b", "bx"]]
    # b has two votes; a and b have two and the same nearest neighbor; so have c and b; b and x have two, x is nearer.
    assert vote_by_name([[0.9, 0.8, 0.7]] * 4, labels) == ["b", "ab", "bc", "x"]


def test_a_temperature_lets_near_neighbors_outvote_many():
    assert vote_by_name([[0.9, 0.1, 0.1]], ["abb"], temperature=0.07) == ["a"]
    assert vote_by_name([[0.9, 0.1, 0.1]], ["abb"], temperature=100.0) == ["b"]


def test_a_tiny_temperature_does_not_overflow():
    assert vote_by_name([[300.0, 299.0]], ["ab"], temperature=1e-4) == ["a"]


def test_any_label_of_a_query_is_right():
    embeds, gallery = np.array([[1.0], [1.0]]), np.array([[1.0], [0.9]])
    assert knn_correct(embeds, [["a", "b"], ["c"]], gallery, [["b", "x"], ["c"]]).tolist() == [True, False]
    assert knn_correct(np.eye(3), [[1, 2], [], [2]], k=1).tolist() == [False, False, True]


def test_each_query_leaves_itself_out():
    assert knn_correct(np.eye(2), ["a", "b"], k=1).tolist() == [False, False]


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and 2"):
        knn_correct(np.eye(3), [0, 0, 0], k=k)


def test_a_nan_row_is_named():
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        knn_correct(np.array([[1.0], [np.nan]]), [0, 1])


@pytest.mark.parametrize("labels", [[0, 0, 1], ["a", "a", "b"]])
def test_the_module_loads_from_its_path(labels):
    metric = evaluate.load("metrics/knn_accuracy")
    embeds = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    assert metric.compute(image_embeds=embeds, labels=labels, k=1)["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_neighbors_of_the_cpu():
    embeds = tied_rows(500)
    assert nearest(embeds.cuda(), k=9)[1].tolist() == nearest(embeds, k=9)[1].tolist()
