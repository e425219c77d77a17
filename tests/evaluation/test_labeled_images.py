import io
import json
import logging
from pathlib import Path

import datasets
import pytest
from PIL import Image

from evaluation.labeled_images import open_images, read_hashed, share_labels
from modeling_mofi.data.images import UnreadableImage
from tests.evaluation.conftest import COLORS, picture


def test_a_parquet_file_gives_labels_and_row_ids(colors_file):
    images = open_images(colors_file, label_column="color")
    assert images.labels[:5] == ["red"] * 4 + ["green"]
    assert images.row_ids[:2] == ["red-0", "red-1"]
    assert images.read(0)[0].size == (20, 16)


def test_a_folder_of_images_is_labeled_by_its_subfolders(tmp_path):
    for name in ("green", "red"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / f"{name}.png").write_bytes(picture(COLORS[name]))
    images = open_images(str(tmp_path / "photos"), label_column="label")
    assert images.labels == [0, 1]
    assert images.label_names == {0: "green", 1: "red"}
    assert images.row_ids == ["green.png", "red.png"]


def test_a_saved_data_set_opens(colors_file, tmp_path):
    open_images(colors_file).rows.save_to_disk(tmp_path / "saved")
    assert len(open_images(str(tmp_path / "saved"), label_column="number")) == 12


def test_several_splits_need_a_choice(colors_file, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.parquet").write_bytes(Path(colors_file).read_bytes())
    with pytest.raises(ValueError, match="splits train, test; choose one with --split"):
        open_images(str(folder))
    assert len(open_images(str(folder), split="test")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_column": "colour"}, r"no column 'colour'; it has image, image_id, .*Did you mean 'color'\?"),
        ({"image_column": "picture"}, "no column 'picture'; it has image, image_id"),
        ({"label_column": "image"}, "holds a dict; a label must be a string or an int"),
    ],
)
def test_a_wrong_column_is_refused_with_those_there_are(colors_file, arguments, message):
    with pytest.raises(ValueError, match=message):
        open_images(colors_file, **arguments)


@pytest.mark.parametrize("data", ["missing.parquet", "some/long/path", "./missing"])
def test_a_missing_file_is_named(data):
    with pytest.raises(FileNotFoundError, match=f"{data} does not exist"):
        open_images(data)


def test_an_unreachable_data_set_is_named():
    with pytest.raises(FileNotFoundError, match="owner/data is neither here nor reachable"):
        open_images("owner/data")


def test_an_empty_file_is_refused(write_rows):
    with pytest.raises(ValueError, match="has no rows to evaluate"):
        open_images(write_rows(image=[], color=[]))


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"not Parquet, but long enough")
    with pytest.raises(ValueError, match="broken.parquet is not a whole Parquet file"):
        open_images(str(tmp_path / "broken.parquet"))


def test_rows_without_a_label_are_left_out_and_counted(write_rows, caplog):
    data = write_rows(image=[picture(COLORS["red"])] * 3, color=["red", None, "red"], image_id=["a", "b", "c"])
    with caplog.at_level(logging.WARNING):
        images = open_images(data, label_column="color")
    assert images.row_ids == ["a", "c"]
    assert "1 of 3 rows have no color" in caplog.text


def test_only_null_labels_are_an_empty_data_set(write_rows):
    data = write_rows(image=[picture(COLORS["red"])] * 2, color=[None, None])
    with pytest.raises(ValueError, match="no rows to evaluate with a 'color'"):
        open_images(data, label_column="color")


def test_repeated_row_ids_are_told_apart(write_rows, caplog):
    data = write_rows(image=[picture(COLORS["red"])] * 3, image_id=["a", "a", "b"])
    assert open_images(data).row_ids == ["a#0", "a#1", "b"]
    assert "1 row ids occur more than once" in caplog.text


def test_an_edited_file_has_another_fingerprint(write_rows):
    red = open_images(write_rows(image=[picture(COLORS["red"])]))
    blue = open_images(write_rows(image=[picture(COLORS["blue"])]))
    assert red.fingerprint != blue.fingerprint


def test_a_data_set_opened_twice_has_one_fingerprint(colors_file):
    assert open_images(colors_file).fingerprint == open_images(colors_file).fingerprint


def test_the_only_column_of_images_is_found(colors_file, tmp_path):
    open_images(colors_file).rows.rename_column("image", "webp").save_to_disk(tmp_path / "saved")
    assert open_images(str(tmp_path / "saved")).image_column == "webp"


def test_a_limit_keeps_the_first_rows(colors_file):
    assert open_images(colors_file, limit=3).row_ids == ["red-0", "red-1", "red-2"]


@pytest.mark.parametrize("content", [b"", b"<html></html>", picture(COLORS["red"])[:60]])
def test_a_broken_image_gives_its_reason(content):
    with pytest.raises(UnreadableImage, match="empty image|markup|truncated|corrupt"):
        read_hashed({"bytes": content, "path": None})


def test_a_missing_file_gives_its_reason(tmp_path):
    with pytest.raises(UnreadableImage, match="image file missing"):
        read_hashed({"bytes": None, "path": "gone.png"}, folders=[str(tmp_path)])


def write_folder(folder, names):
    """One picture per name, in a subfolder of that name."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.png").write_bytes(picture(COLORS["red"]))
    return open_images(str(folder), label_column="label")


def test_folders_that_number_their_classes_differently_share_the_names(tmp_path):
    query, gallery = write_folder(tmp_path / "val", ["cat", "dog"]), write_folder(tmp_path / "train", ["ant", "dog"])
    assert query.labels == gallery.labels == [0, 1]
    share_labels(query, gallery)
    assert query.labels == ["cat", "dog"] and gallery.labels == ["ant", "dog"]


def test_folders_without_a_common_class_are_refused(tmp_path):
    query, gallery = write_folder(tmp_path / "val", ["cat", "dog"]), write_folder(tmp_path / "train", ["ant", "bee"])
    with pytest.raises(ValueError, match="have no class in common: 'cat', ... and 'ant'"):
        share_labels(query, gallery)


def test_an_absent_image_gives_its_reason():
    with pytest.raises(UnreadableImage, match="no image"):
        read_hashed({"bytes": None, "path": None})


def test_an_enormous_image_is_refused_by_its_header():
    header = io.BytesIO()
    Image.new("1", (20000, 20000)).save(header, "PNG")
    with pytest.raises(UnreadableImage, match="pixels"):
        read_hashed({"bytes": header.getvalue(), "path": None})


def write_pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(COLORS["red"]))
    return str(folder)


def test_words_for_splits_in_names_of_files_and_classes_leave_no_image_out(tmp_path):
    names = ["cat/steam train.png", "cat/crash-test-1.png", "cat/val.png", "train/a.png", "train/eval_b.png"]
    images = open_images(write_pictures(tmp_path / "photos", *names), label_column="label")
    assert [images.label_names[label] for label in images.labels] == ["cat"] * 3 + ["train"] * 2


def test_folders_that_are_all_splits_are_splits(tmp_path):
    data = write_pictures(tmp_path / "photos", "train/cat/a.png", "train/dog/b.png", "val/dog/test.png")
    images = open_images(data, split="validation", label_column="label")
    assert images.row_ids == ["test.png"] and images.label_names[images.labels[0]] == "dog"


def test_brackets_and_stars_in_paths_are_letters(tmp_path, colors_file):
    folder = tmp_path / "a [1] *"
    assert len(open_images(write_pictures(folder / "photos", "x[2]/a.png"), label_column="label")) == 1
    (folder / "tables").mkdir()
    (folder / "tables" / "rows [0].parquet").write_bytes(Path(colors_file).read_bytes())
    assert len(open_images(str(folder / "tables" / "rows [0].parquet"))) == 12
    assert len(open_images(str(folder / "tables"))) == 12


def test_a_class_label_of_minus_one_is_no_label(tmp_path, caplog):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": picture(COLORS["red"]), "path": None}] * 3, "label": [-1, 1, -1]}
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    assert open_images(str(path), label_column="label").labels == [1]
    assert "2 of 3 rows have no label" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "\ufeffimage,label\nred.png,01\nmore/blue.png,1\n,NA\n"),
        ("rows.tsv", "image\tlabel\nred.png\t01\nmore/blue.png\t1\n\tNA\n"),
        (
            "rows.jsonl",
            '{"image": "red.png", "label": "01"}\n{"image": "more/blue.png", "label": "1"}\n{"label": "NA"}\n',
        ),
    ],
)
def test_tables_of_paths_are_read_from_their_folder_and_labels_stay_texts(tmp_path, name, content):
    write_pictures(tmp_path, "red.png", "more/blue.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    images = open_images(str(tmp_path / name), label_column="label")
    assert images.labels == ["01", "1", "NA"]
    assert images.read(0)[0].size == images.read(1)[0].size == (20, 16)
    with pytest.raises(UnreadableImage, match="no image"):
        images.read(2)


def test_paths_that_lead_out_of_the_data_are_not_opened(tmp_path):
    write_pictures(tmp_path, "secret.png", "data/inside.png")
    paths = ["inside.png", "../secret.png", str(tmp_path / "secret.png"), str(tmp_path / "data" / "inside.png")]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps({"image": path}) + "\n" for path in paths))
    images = open_images(str(tmp_path / "data" / "rows.jsonl"))
    assert images.read(0)[0].size == images.read(3)[0].size == (20, 16)
    for row in (1, 2):
        with pytest.raises(UnreadableImage, match="image path outside the folder of the data"):
            images.read(row)
    images = open_images(str(tmp_path / "data" / "rows.jsonl"), image_root=str(tmp_path))
    assert images.read(2)[0].size == (20, 16)


def test_another_file_under_the_same_name_changes_the_fingerprint(tmp_path):
    data = write_pictures(tmp_path / "photos", "cat/a.png")
    before = open_images(data).fingerprint
    assert open_images(data).fingerprint == before
    (tmp_path / "photos" / "cat" / "a.png").write_bytes(picture(COLORS["blue"], size=(30, 30)))
    assert open_images(data).fingerprint != before


def entity(entity_id):
    return {"entity_id": entity_id, "name": entity_id.lower(), "description": "", "similarity": 0.3}


def test_rows_of_i2e_are_labeled_with_the_ids_of_their_entities(write_rows, caplog):
    rows = [["Q1", "Q2"], [], ["Q2"]]
    data = write_rows(
        image=[picture(COLORS["red"], seed=seed) for seed in range(3)],
        entities=[[entity(entity_id) for entity_id in row] for row in rows],
        entity_labels=[[0, 1], [], [1]],
    )
    images = open_images(data, label_column=("label", "entity_labels"))
    assert images.labels == [("Q1", "Q2"), ("Q2",)] and images.label_names["Q2"] == "q2"
    assert "1 of 3 rows have no entity_labels" in caplog.text


def test_lists_of_classes_lose_those_that_are_none(write_rows):
    data = write_rows(image=[picture(COLORS["red"])] * 3, classes=[[3, None], [None], [7]])
    assert open_images(data, label_column="classes").labels == [(3,), (7,)]


def test_entities_keep_their_ids_beside_another_build(write_rows):
    files = [picture(COLORS["red"], seed=seed) for seed in range(2)]
    sets = [
        write_rows(f"{name}.parquet", image=files, entity_labels=labels, entities=[[entity(i)] for i in ids])
        for name, labels, ids in (("a", [[0], [1]], ["Q1", "Q2"]), ("b", [[0], [1]], ["Q2", "Q3"]))
    ]
    query, gallery = (open_images(data, label_column="entity_labels") for data in sets)
    share_labels(query, gallery)
    assert query.labels == [("Q1",), ("Q2",)] and gallery.labels == [("Q2",), ("Q3",)]
