"""Labels of the `evaluate` modules: strings stay strings, ints stay ints, anything else is refused."""

import evaluate
import numpy as np
import pytest


EMBEDS = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
MODULES = ("retrieval_map", "knn_accuracy", "recall_at_k")


def compute(name, labels, **arguments):
    if name == "recall_at_k":
        arguments = {"gallery_embeds": EMBEDS, "gallery_labels": labels, "ks": [1]} | arguments
    result = evaluate.load(f"metrics/{name}").compute(image_embeds=EMBEDS, labels=labels, **arguments)
    return next(iter(result.values()))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("labels", [["1984", "1984", "Titanic", "Titanic"], ["01", "01", "1", "1"]])
def test_strings_that_look_like_numbers_stay_strings(name, labels):
    assert compute(name, labels) == 1.0


def test_strings_that_are_equal_as_numbers_are_different_classes():
    assert compute("retrieval_map", ["01", "1", "01", "1"]) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert compute("knn_accuracy", ["01", "1", "01", "1"]) == 0.0


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("labels", [[0.2, 0.4, 1.2, 1.4], ["a", 1, "a", 1], [None, None, 1, 1]])
def test_labels_of_another_or_of_several_kinds_are_refused(name, labels):
    with pytest.raises(ValueError, match="give all strings or all ints"):
        compute(name, labels)


@pytest.mark.parametrize("name", MODULES)
def test_arrays_of_ints_are_labels(name):
    assert compute(name, np.array([3, 3, 7, 7], dtype=np.int32)) == 1.0


@pytest.mark.parametrize("labels", [["0", "0", "1", "1"], [0, 0, 1]])
def test_gallery_labels_of_another_kind_or_number_are_refused(labels):
    with pytest.raises(ValueError, match="mix strings and numbers|one per row"):
        compute("knn_accuracy", [0, 0, 1, 1], gallery_embeds=EMBEDS, gallery_labels=labels)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        compute("knn_accuracy", [0, 0, 1, 1], temperature=temperature)


def test_modules_combine():
    both = evaluate.combine(["metrics/retrieval_map", "metrics/knn_accuracy"])
    result = both.compute(image_embeds=EMBEDS, labels=["a", "a", "b", "b"])
    assert result["mean_average_precision"] == result["accuracy"] == 1.0
