import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from evaluation import linear_probe
from evaluation.benchmark import Benchmark
from evaluation.labeled_images import open_images
from evaluation.linear_probe import choose_regularization, evaluate_linear_probe, fit_probe, hold_out


def clusters(num_rows, *, spread, seed=0):
    """Unit-length rows around five centers, and the center of each."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, 12, generator=torch.Generator().manual_seed(9))
    targets = torch.randint(0, 5, (num_rows,), generator=generator)
    noise = spread * torch.randn(num_rows, 12, generator=generator)
    return torch.nn.functional.normalize(centers[targets] + noise), targets


@pytest.mark.parametrize("regularization", [0.1, 10.0, 1000.0])
def test_the_solution_is_that_of_scikit_learn(regularization):
    embeds, targets = clusters(300, spread=1.5)
    probe = fit_probe(embeds, targets[:, None], regularization=regularization)
    reference = LogisticRegression(C=regularization, tol=1e-8, max_iter=5000).fit(embeds.double().numpy(), targets)
    weight = torch.from_numpy(reference.coef_).float()
    torch.testing.assert_close(probe.weight, weight, rtol=0.02, atol=0.02 * weight.abs().max().item())
    tested, wanted = clusters(500, spread=1.5, seed=1)
    accuracy = (probe.predict(tested) == wanted).double().mean().item()
    assert accuracy == pytest.approx(reference.score(tested.numpy(), wanted), abs=0.002)


def test_chunks_do_not_change_the_solution(monkeypatch):
    embeds, targets = clusters(100, spread=1.0)
    whole = fit_probe(embeds, targets[:, None], regularization=1.0)
    monkeypatch.setattr(linear_probe, "LOGITS_PER_CHUNK", 35)
    torch.testing.assert_close(
        fit_probe(embeds, targets[:, None], regularization=1.0).weight, whole.weight, atol=1e-3, rtol=0
    )


def test_a_start_elsewhere_reaches_the_same_solution():
    embeds, targets = clusters(200, spread=1.5)
    start = fit_probe(embeds, targets[:, None], regularization=0.1)
    warm, cold = (fit_probe(embeds, targets[:, None], regularization=10.0, start=begin) for begin in (start, None))
    torch.testing.assert_close(warm.weight, cold.weight, atol=5e-3, rtol=0)


def test_noisy_data_choose_a_strong_regularization_and_say_when_the_sweep_is_too_short(caplog):
    embeds, targets = clusters(60, spread=6.0)
    assert choose_regularization(embeds, targets[:, None], [1.0, 1e6]) == 1.0
    assert "the best C, 1, is at the end of the sweep" in caplog.text


def test_a_fifth_of_each_class_is_held_out_and_the_only_image_of_a_class_is_not():
    targets = torch.tensor([0] * 10 + [1] * 2 + [2])
    is_held_out = hold_out(targets[:, None])
    assert [int(is_held_out[targets == target].sum()) for target in range(3)] == [2, 1, 0]


def test_classes_are_learned_from_the_gallery(pixels, colors_file):
    images = open_images(colors_file, label_column="color")
    query = open_images(colors_file, label_column="color", limit=11)
    benchmark = Benchmark(task="linear_probe", regularization=[0.1, 1.0, 10.0])
    scores = evaluate_linear_probe(benchmark, pixels, query=query, gallery=images)
    assert scores.by_query["accuracy"].tolist() == [1.0] * 11
    assert scores.chosen["C"] in benchmark.regularization


def test_a_class_without_training_images_counts_as_wrong(pixels, colors_file, caplog):
    query = open_images(colors_file, label_column="color")
    gallery = open_images(colors_file, label_column="color", limit=8)
    scores = evaluate_linear_probe(Benchmark(regularization=[1.0]), pixels, query=query, gallery=gallery)
    np.testing.assert_array_equal(scores.by_query["accuracy"][8:], np.zeros(4))
    assert "4 test images have a class without training images" in caplog.text


def test_several_classes_of_a_training_image_are_as_rows_of_half_the_weight():
    embeds, targets = clusters(40, spread=1.5)
    pairs = torch.stack([targets, (targets + 1) % 5], dim=1)
    doubled = fit_probe(embeds.repeat(2, 1), pairs.T.reshape(-1, 1), regularization=0.5)
    padded = torch.cat([pairs, torch.full((40, 1), -1)], dim=1)
    torch.testing.assert_close(fit_probe(embeds, padded, regularization=1.0).weight, doubled.weight, atol=2e-3, rtol=0)


def test_any_class_of_a_test_image_is_right(pixels, colors_file):
    gallery, query = (open_images(colors_file, label_column="color", limit=limit) for limit in (12, 11))
    query.labels = [("odd", label) if row % 2 else ("odd",) for row, label in enumerate(query.labels)]
    scores = evaluate_linear_probe(Benchmark(regularization=[1.0]), pixels, query=query, gallery=gallery)
    np.testing.assert_array_equal(scores.by_query["accuracy"], np.arange(11) % 2)


def test_sets_without_a_common_class_are_refused(pixels, colors_file):
    gallery, query = (open_images(colors_file, label_column="number", limit=limit) for limit in (12, 11))
    query.labels = [str(label) for label in query.labels]
    with pytest.raises(ValueError, match="have no class in common: '0', ... and 0"):
        evaluate_linear_probe(Benchmark(regularization=[1.0]), pixels, query=query, gallery=gallery)


def test_a_missing_training_set_is_named(pixels, colors_file):
    with pytest.raises(ValueError, match="linear_probe needs --gallery"):
        evaluate_linear_probe(Benchmark(), pixels, query=open_images(colors_file, label_column="color"))


def test_training_on_the_tested_images_is_refused(pixels, colors_file):
    query, gallery = (open_images(colors_file, label_column="color") for _ in range(2))
    with pytest.raises(ValueError, match="train and test on the same images"):
        evaluate_linear_probe(Benchmark(), pixels, query=query, gallery=gallery)
