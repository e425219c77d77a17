"""Evaluation while training: labels of any kind, several of them, none, and images that cannot be read."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import COLORS, IMAGE_TYPE, make_tiny_processor, picture

from metrics.retrieval_map.retrieval_map import average_precision
from modeling_mofi.data.dataset_rows import DatasetRows
from modeling_mofi.data.parquet_rows import ParquetRows
from modeling_mofi.training.evaluation import RetrievalEvaluation, read_labels
from modeling_mofi.training.retrieval_scores import naming_accuracy, retrieval_map, text_recall


class MeanColor:
    """A model whose embedding of an image is its mean color."""

    device = torch.device("cpu")

    def __init__(self):
        self.mofi, self.text_model, self.text_embeds = self, None, None

    def __call__(self, pixel_values, **options):
        self.image_embeds = torch.nn.functional.normalize(pixel_values.mean(dim=(2, 3)), dim=1)
        return self


def write(path, labels, *, broken=()):
    files = [b"broken" if row in broken else picture(COLORS[row % 4], seed=row) for row in range(len(labels))]
    images = pa.array([{"bytes": content, "path": None} for content in files], IMAGE_TYPE)
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return ParquetRows([str(path)], {"image": "image", "label": "label"})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_without_a_label_or_a_readable_image_are_left_out_named_and_counted(tmp_path, caplog, num_workers):
    rows = write(tmp_path / "rows.parquet", ["1984", None, "01", "1", "1984"], broken={3})
    settings = {"batch_size": 3, "num_workers": num_workers}
    metrics = RetrievalEvaluation(rows, make_tiny_processor(), **settings)(MeanColor())
    assert metrics == {"retrieval_map": 1.0, "num_images": 3, "num_unreadable": 1, "num_unlabeled": 1}
    assert "1 of 5 rows to evaluate on have no label" in caplog.text
    assert num_workers or "image 3 of the evaluation is left out: unknown image format" in caplog.text


def test_strings_are_no_numbers(tmp_path):
    rows = write(tmp_path / "rows.parquet", ["01", "1", "001", "1"])
    assert read_labels(rows) == [["01"], ["1"], ["001"], ["1"]]


def test_minus_one_of_a_class_label_is_no_label_and_of_ints_a_label(tmp_path):
    assert read_labels(write(tmp_path / "ints.parquet", [0, -1, 1])) == [[0], [-1], [1]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": picture(seed=row), "path": None} for row in range(3)], "label": [0, -1, 1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.to_parquet(tmp_path / "classes.parquet")
    columns = {"image": "image", "label": "label"}
    assert read_labels(ParquetRows([str(tmp_path / "classes.parquet")], columns)) == [[0], [], [1]]
    assert read_labels(DatasetRows(dataset, columns)) == [[0], [], [1]]


@pytest.mark.parametrize(("labels", "found"), [([0.5, 1.0], "float"), ([None, None], "all missing")])
def test_labels_of_another_kind_are_refused_before_training(tmp_path, labels, found):
    rows = write(tmp_path / "rows.parquet", pa.array(labels, pa.float64()))
    with pytest.raises(ValueError, match=f"The labels in 'label' of .*rows.parquet are {found}"):
        RetrievalEvaluation(rows, make_tiny_processor(), batch_size=3)


def test_one_label_an_image_gives_the_metric_and_several_any_of_them():
    generator = torch.Generator().manual_seed(0)
    embeds = torch.nn.functional.normalize(torch.randn(30, 4, generator=generator), dim=1)
    labels = torch.randint(6, (30,), generator=generator).tolist()
    expected = np.nanmean(average_precision(embeds, labels))
    assert retrieval_map(embeds, [[label] for label in labels], scores_per_chunk=100) == pytest.approx(expected)
    # The first image's order is b, c, d; of two labels it shares one with b and the other with d.
    embeds = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    found = retrieval_map(embeds, [["x", "y"], ["x"], ["z"], ["y"]])
    assert found == pytest.approx(((1 / 1 + 2 / 3) / 2 + 1 / 1 + 1 / 3) / 3)


def test_texts_and_names_are_right_where_they_say_the_same():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0.0, 0.1, 0], [0.0, 0, 1]])
    right = {"image_to_text_recall": 1.0, "text_to_image_recall": 1.0}
    assert text_recall(images, texts, ["a", "b", "c"]) == right
    texts[1] = torch.tensor([0.9, 0, 0.1])  # Nearest to the first image, and the second image near to none.
    assert text_recall(images, texts, ["a", "a", "c"]) == right
    found = text_recall(images, texts, ["a", "b", "c"])
    assert found == {name: pytest.approx(2 / 3) for name in right}
    assert text_recall(images, texts, [None, "", None]) == {}
    names = torch.tensor([[0.0, 1, 0], [1.0, 0, 0]])
    assert naming_accuracy(images, [[7], [5, 7], [7]], [5, 7], names) == pytest.approx(2 / 3)
