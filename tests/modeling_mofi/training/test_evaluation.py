"""Evaluation while training goes on where rows have no label or no readable image."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import COLORS, IMAGE_TYPE, make_tiny_processor, picture

from modeling_mofi.data.parquet_rows import ParquetRows
from modeling_mofi.training.evaluation import RetrievalEvaluation


class MeanColor:
    """A model whose embedding of an image is its mean color."""

    device = torch.device("cpu")

    def __call__(self, pixel_values, **options):
        self.image_embeds = torch.nn.functional.normalize(pixel_values.mean(dim=(2, 3)), dim=1)
        return self


def evaluate(path):
    """The labels and embeddings that are scored."""
    seen = {}
    rows = ParquetRows([str(path)], {"image": "image", "label": "label"})
    compute = lambda embeds, labels: seen.update(embeds=embeds, labels=labels) or {"count": len(labels)}  # noqa: E731
    evaluation = RetrievalEvaluation(rows, make_tiny_processor(), compute=compute, batch_size=3)
    assert evaluation(MeanColor()) == {"count": len(seen["labels"])}
    return seen


def write(path, labels, *, broken=()):
    files = [b"broken" if row in broken else picture(COLORS[row % 4], seed=row) for row in range(len(labels))]
    images = pa.array([{"bytes": content, "path": None} for content in files], IMAGE_TYPE)
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def test_rows_without_a_label_or_a_readable_image_are_left_out_and_named(tmp_path, caplog):
    seen = evaluate(write(tmp_path / "rows.parquet", ["1984", None, "01", "1", "1984"], broken={3}))
    assert seen["labels"] == ["1984", "01", "1984"] and seen["embeds"].shape == (3, 3)
    assert "1 of 5 rows to evaluate on have no label" in caplog.text
    assert "image 3 of the evaluation is left out: unknown image format" in caplog.text
    assert seen["embeds"][0] @ seen["embeds"][2] > 0.99 > seen["embeds"][0] @ seen["embeds"][1]


def test_minus_one_of_a_class_label_is_no_label_and_of_ints_a_label(tmp_path):
    path = write(tmp_path / "ints.parquet", [0, -1, 1])
    assert evaluate(path)["labels"] == [0, -1, 1]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": picture(seed=row), "path": None} for row in range(3)], "label": [0, -1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "classes.parquet")
    assert evaluate(tmp_path / "classes.parquet")["labels"] == [0, 1]


@pytest.mark.parametrize(("labels", "found"), [([0.5, 1.0], "float"), ([None, None], "all missing")])
def test_labels_of_another_kind_are_refused_before_training(tmp_path, labels, found):
    path = write(tmp_path / "rows.parquet", pa.array(labels, pa.float64()))
    with pytest.raises(ValueError, match=f"The labels in 'label' of .*rows.parquet are {found}"):
        evaluate(path)
