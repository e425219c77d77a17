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


def test_hidden_files_are_no_data(tmp_path):
    for name in ("a.jsonl", "._a.jsonl", ".cache/b.jsonl", "__MACOSX/c.jsonl", "deep/d.jsonl"):
        write_lines(tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert names(tmp_path) == ["a.jsonl", "d.jsonl"]
    assert names(tmp_path / "*.jsonl") == ["a.jsonl"]


def test_a_folder_of_img2dataset_is_its_tars(tmp_path):
    for shard in ("00000", "00001"):
        record = json.dumps({"caption": "an octopus", "url": "http://a.example/x.jpg"}).encode()
        write_tar(tmp_path / f"{shard}.tar", {"0.jpg": b"x", "0.json": record, "0.txt": b"an octopus"})
        datasets.Dataset.from_dict({"url": ["x"], "caption": ["y"]}).to_parquet(tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text("{}")
    source = SourceArguments(str(tmp_path), image_column="jpg", alt_text_column="caption")
    assert [Path(shard.path).name for shard in plan_shards(source)] == ["00000.tar", "00001.tar"]
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
    assert image_bytes(cell, root=str(root)) == expected


def test_a_file_that_cannot_be_read_is_a_reason(root, monkeypatch):
    def refuse(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.open", refuse)
    assert image_bytes("good.png", root=str(root)) == "image file unreadable"
