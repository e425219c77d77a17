import evaluate
import numpy as np
import pytest
import torch

from metrics.retrieval_map import retrieval_map
from metrics.retrieval_map.retrieval_map import average_precision


def brute_force(query, query_labels, gallery, gallery_labels, left_out=None):
    """Sorts each row of scores in plain Python: by score, then by index."""
    result = []
    for row, label in enumerate(query_labels):
        scores = (query[row] @ gallery.T).tolist()
        order = sorted(
            (i for i in range(len(scores)) if i != (left_out or {}).get(row)), key=lambda i: (-scores[i], i)
        )
        names = set(label) if isinstance(label, list) else {label}
        is_hit = [not names.isdisjoint(g if isinstance(g, list) else [g]) for g in gallery_labels]
        hits = [rank for rank, i in enumerate(order, start=1) if is_hit[i]]
        result.append(np.mean([k / rank for k, rank in enumerate(hits, start=1)]) if hits else np.nan)
    return np.array(result)


def tied_rows(num_rows, seed=0):
    """Small whole numbers: exact in every precision, with many equal scores."""
    return torch.randint(-2, 3, (num_rows, 6), generator=torch.Generator().manual_seed(seed)).float()


def test_the_value_of_a_ranking_worked_out_by_hand():
    gallery = np.array([[0.9], [0.8], [0.7], [0.6]])
    precisions = average_precision(np.array([[1.0]]), ["a"], gallery, ["b", "a", "b", "a"])
    assert precisions == pytest.approx([(1 / 2 + 2 / 4) / 2])


def test_equal_scores_rank_by_gallery_index():
    gallery = np.ones((3, 1))
    assert average_precision(np.ones((1, 1)), [7], gallery, [0, 7, 0]) == pytest.approx([1 / 2])


@pytest.mark.parametrize("scores_per_chunk", [1, 100, 997, 2**24])
def test_any_chunk_size_equals_brute_force_with_ties(scores_per_chunk):
    embeds, labels = tied_rows(40), [i % 7 for i in range(40)]
    precisions = average_precision(embeds, labels, scores_per_chunk=scores_per_chunk)
    expected = brute_force(embeds, labels, embeds, labels, left_out={i: i for i in range(40)})
    np.testing.assert_allclose(precisions, expected, rtol=1e-12)


@pytest.mark.parametrize("scores_per_chunk", [1, 100, 2**24])
def test_a_separate_gallery_equals_brute_force(scores_per_chunk):
    query, gallery = tied_rows(20), tied_rows(31, seed=1)
    query_labels, gallery_labels = [f"c{i % 5}" for i in range(20)], [f"c{i % 4}" for i in range(31)]
    precisions = average_precision(query, query_labels, gallery, gallery_labels, scores_per_chunk=scores_per_chunk)
    expected = brute_force(query, query_labels, gallery, gallery_labels)
    np.testing.assert_allclose(precisions, expected, rtol=1e-12)
    assert np.isnan(precisions[4])


@pytest.mark.parametrize("most_counted", [0, 100])
@pytest.mark.parametrize("scores_per_chunk", [1, 500, 2**24])
def test_a_row_that_shares_any_label_is_relevant_once(monkeypatch, most_counted, scores_per_chunk):
    monkeypatch.setattr(retrieval_map, "MOST_COUNTED", most_counted)
    embeds = tied_rows(40)
    labels = [[i % 5, i % 3 + 10][: i % 4] for i in range(40)]  # None, one or two of them.
    precisions = average_precision(embeds, labels, scores_per_chunk=scores_per_chunk)
    expected = brute_force(embeds, labels, embeds, labels, left_out={i: i for i in range(40)})
    np.testing.assert_allclose(precisions, expected, rtol=1e-12)
    assert np.isnan(precisions[::4]).all()


@pytest.mark.parametrize("num_columns", [7, 1999, 2000, 2001, 4100])
def test_comparing_counts_as_sorting_does(num_columns):
    scores = torch.randint(-3, 4, (5, num_columns), generator=torch.Generator().manual_seed(0)).float()
    wanted = scores[:, :3].contiguous()
    above, not_below = retrieval_map.count_by_comparing(scores, wanted)
    expected_above, expected_not_below = retrieval_map.count_by_sorting(scores, wanted)
    assert torch.equal(above, expected_above) and torch.equal(not_below, expected_not_below)
    assert above[0, 0] == (scores[0] > scores[0, 0]).sum() and not_below[0, 0] == (scores[0] >= scores[0, 0]).sum()


def test_bf16_features_are_scored_in_fp32():
    embeds = torch.randn(60, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = [i // 5 for i in range(60)]
    expected = brute_force(embeds.float(), labels, embeds.float(), labels)
    np.testing.assert_allclose(average_precision(embeds, labels, keep_query=True), expected, atol=1e-9)


def test_random_embeddings_give_0_102_on_the_shape_of_gpr1200():
    embeds = torch.nn.functional.normalize(torch.randn(12000, 16, generator=torch.Generator().manual_seed(0)))
    precisions = average_precision(embeds, np.arange(12000) // 10, keep_query=True)
    assert precisions.mean() == pytest.approx(0.102, abs=0.001)


def test_perfect_embeddings_give_1():
    labels = np.arange(200) // 10
    assert average_precision(np.eye(20)[labels], labels, keep_query=True).tolist() == [1.0] * 200


def test_a_class_with_one_image_has_no_value():
    assert np.isnan(average_precision(np.eye(3), ["a", "a", "b"])).tolist() == [False, False, True]


def test_equal_images_of_a_class_find_each_other_first():
    embeds = np.array([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert average_precision(embeds, [0, 0, 1, 1])[:2].tolist() == [1.0, 1.0]


def test_a_nan_row_is_named():
    embeds = np.eye(4)
    embeds[2, 0] = np.nan
    with pytest.raises(ValueError, match=r"rows \[2\]"):
        average_precision(embeds, [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("labels", "gallery_labels", "message"),
    [
        ([1], [1, 2], "2 embeddings and 1 labels"),
        ([1, 2], ["a", "b"], "labels are int, str"),
        ("ab", [1, 2], "the text 'ab'"),
        ([0.5, 1.5], [1, 2], "labels are float, int"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, gallery_labels, message):
    with pytest.raises(ValueError, match=message):
        average_precision(np.eye(2), labels, np.eye(2), gallery_labels)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], ["a", "a", "b", "b"]])
def test_the_module_loads_from_its_path_and_gives_the_mean(labels):
    metric = evaluate.load("metrics/retrieval_map")
    embeds = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1]], dtype=np.float32)
    result = metric.compute(image_embeds=embeds, labels=labels)
    expected = average_precision(embeds, labels).mean()
    assert result == {"mean_average_precision": pytest.approx(expected), "num_queries": 4, "num_excluded": 0}


def test_the_module_takes_a_gallery():
    metric = evaluate.load("metrics/retrieval_map")
    result = metric.compute(
        image_embeds=[[1.0]], labels=["a"], gallery_embeds=[[1.0], [0.5]], gallery_labels=["b", "a"]
    )
    assert result["mean_average_precision"] == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_value_of_the_cpu():
    embeds, labels = tied_rows(500), [i % 40 for i in range(500)]
    on_gpu = average_precision(embeds.cuda(), labels, scores_per_chunk=5000)
    np.testing.assert_allclose(on_gpu, average_precision(embeds, labels), rtol=1e-12)
