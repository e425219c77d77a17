import gzip
import json
import os
from pathlib import Path

import datasets
import pytest
from tiny_build import write_tar

from data_scripts.arguments import SourceArguments
from data_scripts.sources.images import image_bytes
from data_scripts.sources.pairs import read_images, read_pairs
from data_scripts.sources.plan import expand_braces, plan_shards
from modeling_mofi.data.images import UnreadableImage


def write_lines(path, text="an octopus"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"image": "a.png", "alt_text": text}))
    return path


def names(source):
    return [Path(shard.path).name for shard in plan_shards(SourceArguments(str(source)))]


BRACES = [
    ("a{08..11}.tar", ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]),
    ("{000..001}/{a,b}", ["000/a", "000/b", "001/a", "001/b"]),
    ("{2..0}", ["2", "1", "0"]),
    ("plain", ["plain"]),
]


@pytest.mark.parametrize(("pattern", "expected"), BRACES)
def test_braces_are_expanded_as_in_a_shell(pattern, expected):
    assert expand_braces(pattern) == expected


def test_a_pattern_with_braces_names_every_file(tmp_path):
    for number in range(8, 12):
        write_lines(tmp_path / f"{number:05d}.jsonl")
    assert names(tmp_path / "{00009..00011}.jsonl") == ["00009.jsonl", "00010.jsonl", "00011.jsonl"]
    assert names(tmp_path / "{0000,0001}*.jsonl") == ["00008.jsonl", "00009.jsonl", "00010.jsonl", "00011.jsonl"]
    with pytest.raises(FileNotFoundError, match=r"2 of 4 files are missing, first .*00012\.jsonl"):
        names(tmp_path / "{00010..00013}.jsonl")
    with pytest.raises(ValueError, match=r"expected \{000\.\.099\} or \{a,b\}"):
        names(tmp_path / "{00010.jsonl")


def test_a_pattern_may_have_a_question_mark_or_brackets(tmp_path):
    for number in range(12):
        write_lines(tmp_path / f"{number}.jsonl")
    assert names(tmp_path / "1?.jsonl") == ["10.jsonl", "11.jsonl"]
    assert names(tmp_path / "[12].jsonl") == ["1.jsonl", "2.jsonl"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        names(tmp_path / "x?.jsonl")


def test_hidden_files_are_no_data(tmp_path):
    for name in ("a.jsonl", "._a.jsonl", ".cache/b.jsonl", "__MACOSX/c.jsonl", "deep/d.jsonl"):
        write_lines(tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert names(tmp_path) == ["a.jsonl", "d.jsonl"]
    assert names(tmp_path / "*.jsonl") == ["a.jsonl"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_folder_of_img2dataset_is_its_tars(kind, tmp_path):
    for shard in ("00000", "00001"):
        record = json.dumps({"caption": "an octopus", "url": "http://a.example/x.jpg"}).encode()
        path = write_tar(tmp_path / f"{shard}.{kind}", {"0.jpg": b"x", "0.json": record, "0.txt": b"an octopus"})
        path.write_bytes(gzip.compress(path.read_bytes()) if kind == "tar.gz" else path.read_bytes())
        datasets.Dataset.from_dict({"url": ["x"], "caption": ["y"]}).to_parquet(tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text("{}")
    source = SourceArguments(str(tmp_path), image_column="jpg", alt_text_column="caption")
    assert [Path(shard.path).name for shard in plan_shards(source)] == [f"00000.{kind}", f"00001.{kind}"]
    datasets.Dataset.from_dict({"url": ["x"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected files of one kind"):
        plan_shards(source)


@pytest.mark.parametrize("has_splits", [False, True])
def test_a_folder_of_save_to_disk_is_a_source(has_splits, tmp_path):
    rows = {"image": [b"a", b"b", b"c"], "alt_text": ["x", "y", "z"], "licence": [None, "CC0", "CC0"]}
    data = datasets.Dataset.from_dict(rows)
    (datasets.DatasetDict({"train": data}) if has_splits else data).save_to_disk(tmp_path / "saved")
    source = SourceArguments(str(tmp_path / "saved"), keep_columns=["licence"], rows_per_shard=2)
    shards = plan_shards(source)
    batches = [batch for shard in shards for batch in read_pairs(shard, source=source)]
    assert [text for batch in batches for text in batch["alt_text"]] == ["x", "y", "z"]
    assert [value for batch in batches for value in batch["licence"]] == [None, "CC0", "CC0"]
    assert list(read_images(shards[1], source=source, rows=[0])) == [(0, b"c")]


def test_a_folder_of_save_to_disk_that_cannot_be_read_is_named(tmp_path):
    data = datasets.Dataset.from_dict({"image": [b"a"], "alt_text": ["x"]})
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "split")
    with pytest.raises(ValueError, match=r"split has no split 'train'; it has test\. Set --hub_split"):
        plan_shards(SourceArguments(str(tmp_path / "split")))
    with pytest.raises(ValueError, match="split has no column 'caption'; it has image, alt_text"):
        plan_shards(SourceArguments(str(tmp_path / "split"), hub_split="test", alt_text_column="caption"))
    for number, file in enumerate(("data-00000-of-00001.arrow", "dataset_info.json", "state.json")):
        data.save_to_disk(tmp_path / f"{number}")
        path = tmp_path / f"{number}" / file
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(ValueError, match=f"{number} is no whole folder of `save_to_disk`"):
            plan_shards(SourceArguments(str(tmp_path / f"{number}")))
    data.select([]).save_to_disk(tmp_path / "empty")
    with pytest.raises(ValueError, match="empty is no whole folder of `save_to_disk`, or has no row"):
        plan_shards(SourceArguments(str(tmp_path / "empty")))


@pytest.fixture
def root(tmp_path):
    """A folder with a pipe, a loop of links, links inside and out of it, and files that cannot be taken."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "good.png").write_bytes(b"good")
    (folder / "folder").mkdir()
    (folder / "inside.png").symlink_to("good.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "broken.png").symlink_to("none.png")
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


CELLS = [
    ("good.png", b"good"),
    ({"bytes": None, "path": "good.png"}, b"good"),
    (bytearray(b"x"), b"x"),
    ("inside.png", b"good"),
    ("folder/../good.png", b"good"),
    ("outside.png", "image path outside the folder"),
    ("../secret.png", "image path outside the folder"),
    ("../root-2/x.png", "image path outside the folder"),
    ("/etc/hostname", "image path outside the folder"),
    ("zero.png", "image path outside the folder"),
    ("loop.png", "image path is a loop of links"),
    ("pipe.png", "image path is no file"),
    ("folder", "image file missing"),
    ("broken.png", "image file missing"),
    ("good.png/x", "image file missing"),
    ("a" * 300, "image path too long"),
    ("a/" * 5000, "image path too long"),
    ("a\ud800", "image file missing"),
    ("data:image/png;base64,AAAA", "image is a data URI"),
    ("DATA:,x", "image is a data URI"),
    ("https://a.example/x.png", "image is a URL"),
    (["a"], "image column holds a list"),
    ({"bytes": None, "path": 5}, "image column holds a int"),
    ({"bytes": "good.png", "path": None}, b"good"),
    (1.5, "image column holds a float"),
    ({}, "no image"),
]


@pytest.mark.parametrize(("cell", "expected"), CELLS, ids=range(len(CELLS)))
def test_a_cell_is_an_image_or_a_reason(cell, expected, root):
    assert read(cell, root) == expected


def read(cell, root):
    """The image, or the reason why there is none."""
    try:
        return image_bytes(cell, root=str(root))
    except UnreadableImage as error:
        return str(error)


@pytest.mark.parametrize("cell", ["../secret.png", "broken.png", "pipe.png", "a\ud800", "a\0b"])
def test_of_a_path_that_is_no_image_the_path_is_told(cell, root):
    with pytest.raises(UnreadableImage) as refused:
        image_bytes(cell, root=str(root))
    assert refused.value.detail.endswith(cell.replace("broken", "none"))


def test_a_file_that_cannot_be_read_is_a_reason(root, monkeypatch):
    def refuse(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.open", refuse)
    assert read("good.png", root) == "image file unreadable"
