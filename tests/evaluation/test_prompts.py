import pytest

from evaluation.labeled_images import open_images
from evaluation.prompts import read_class_names, read_prompts


def test_the_lists_of_the_project_have_their_lengths():
    lengths = {
        name: len(read_prompts(f"configs/zero_shot_prompts.json:{name}", "x")) for name in ("imagenet", "cifar")
    }
    assert lengths == {"imagenet": 7, "cifar": 18}


def test_a_text_file_has_a_template_a_line(tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of a {}.\n\nart of {c}\n")
    assert read_prompts(str(tmp_path / "prompts.txt"), "x") == ["a photo of a {}.", "art of {}"]


@pytest.mark.parametrize(("content", "message"), [("a photo\n", "'a photo' without {}"), ("\n", "is empty")])
def test_a_template_without_a_place_is_refused(tmp_path, content, message):
    (tmp_path / "prompts.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(str(tmp_path / "prompts.txt"), "x")


def test_an_unknown_list_names_those_there_are():
    with pytest.raises(ValueError, match="no list 'birds', only name, general"):
        read_prompts("configs/zero_shot_prompts.json:birds", "x")


def test_a_missing_file_is_looked_for_beside_the_data_set():
    with pytest.raises(FileNotFoundError, match="templates.txt is neither here nor in the dataset owner/data"):
        read_prompts("templates.txt", "owner/data")


def test_string_labels_name_themselves(colors_file):
    images = open_images(colors_file, label_column="color")
    assert read_class_names(None, images, "x") == {"blue": "blue", "green": "green", "red": "red"}


def test_int_labels_take_the_lines_of_a_file(colors_file, tmp_path):
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    images = open_images(colors_file, label_column="number")
    assert read_class_names(str(tmp_path / "names.txt"), images, "x") == {0: "red", 1: "green", 2: "blue"}


def test_an_empty_line_is_an_empty_name_and_shifts_no_other(colors_file, tmp_path, caplog):
    (tmp_path / "names.txt").write_text("red\n\nblue\n\n")
    images = open_images(colors_file, label_column="number")
    assert read_class_names(str(tmp_path / "names.txt"), images, "x") == {0: "red", 1: "", 2: "blue"}
    assert "the names of 1 are empty" in caplog.text


def test_a_file_of_another_data_set_is_asked_for_there():
    with pytest.raises(FileNotFoundError, match="names.txt is neither here nor in the dataset owner/other"):
        read_prompts("owner/other:names.txt", "owner/data")


def test_a_label_without_a_name_is_refused(colors_file, tmp_path):
    (tmp_path / "names.txt").write_text("red\n")
    with pytest.raises(ValueError, match=r"Labels without a name: \[1, 2\]"):
        read_class_names(str(tmp_path / "names.txt"), open_images(colors_file, label_column="number"), "x")


def test_a_byte_order_mark_is_no_part_of_a_name_or_template(colors_file, tmp_path):
    (tmp_path / "prompts.txt").write_text("{} here\n", encoding="utf-8-sig")
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8-sig")
    (tmp_path / "names.json").write_text('{"0": "red", "1": "green", "2": "blue"}', encoding="utf-8-sig")
    images = open_images(colors_file, label_column="number")
    assert read_prompts(str(tmp_path / "prompts.txt"), "x") == ["{} here"]
    for name in ("names.txt", "names.json"):
        assert read_class_names(str(tmp_path / name), images, "x") == {0: "red", 1: "green", 2: "blue"}
