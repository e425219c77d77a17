"""Labels of the `evaluate` modules: strings stay strings, ints stay ints, anything else is refused."""

import importlib
import inspect

import evaluate
import numpy as np
import pytest


EMBEDS = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
MODULES = ("retrieval_map", "knn_accuracy", "recall_at_k")


def compute(name, labels, **arguments):
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
    with pytest.raises(ValueError, match="labels are int, str|one per row"):
        compute("knn_accuracy", [0, 0, 1, 1], gallery_embeds=EMBEDS, gallery_labels=labels)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        compute("knn_accuracy", [0, 0, 1, 1], temperature=temperature)


def test_all_three_modules_combine_and_take_one_set_of_arguments():
    three = evaluate.combine([f"metrics/{name}" for name in MODULES])
    rows = {"image_embeds": EMBEDS, "labels": ["a", "a", "b", "b"]}
    alone = three.compute(**rows)
    gallery = {"gallery_embeds": EMBEDS[1:], "gallery_labels": ["a", "c", "b"]}
    searched = three.compute(**rows, **gallery, k=2, ks=[1, 2], temperature=0.07, keep_query=False)
    assert alone["mean_average_precision"] == alone["accuracy"] == alone["recall@1"] == 1.0
    assert (searched["accuracy"], searched["recall@1"], searched["recall@2"]) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("labels", [[[1, 2], [2], [3], [4, 3]], [["a"], ["b", "a"], ["c"], ["c", "c"]]])
def test_modules_take_lists_of_labels(name, labels):
    assert compute(name, labels) == 1.0


@pytest.mark.parametrize("name", MODULES)
def test_a_text_is_no_list_of_labels(name):
    with pytest.raises(ValueError, match="The labels are the text 'aabb'"):
        compute(name, "aabb")


def test_what_the_modules_share_is_the_same_in_each():
    """`evaluate` loads a module from one file, so each has a copy."""
    modules = [importlib.import_module(f"metrics.{name}.{name}") for name in MODULES]
    names = ("finite_rows", "check_dimensions", "check_one_per_row", "encode_labels", "distinct_labels", "plain")
    for name in names:
        assert len({inspect.getsource(getattr(module, name)) for module in modules}) == 1, name
    for name in ("prepare", "Relevance"):
        assert len({inspect.getsource(getattr(module, name)) for module in (modules[0], modules[2])}) == 1, name
