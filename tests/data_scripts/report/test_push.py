"""Publishing a build with the real client against a server that speaks the Hub's API, and building from the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from hub_server import READER_TOKEN, TOKEN, connected_hub
from huggingface_hub import constants
from tiny_build import make_pairs, write_pairs

from data_scripts.build_i2e import main
from data_scripts.report import push


REPO = "datasets/me/i2e"
ROOT = Path(__file__).parents[3]
# What somebody else does with the dataset, in a process that knows nothing but the Hub's address.
CHECK = """
import hashlib, json, sys
import datasets
from data_scripts.build_i2e import main
data = datasets.load_dataset("me/i2e", split="train")
stream = datasets.load_dataset("me/i2e", split="train", streaming=True)
def describe(row):
    return [row["image_id"], row["entity_labels"], hashlib.sha256(row["image"].tobytes()).hexdigest()]
for streaming in ("true", "false"):
    main([*sys.argv[2:], "--streaming", streaming, "--output_dir", f"{sys.argv[1]}/{streaming}/i2e"])
rows, streamed = (list(map(describe, found)) for found in (data, stream))
print(json.dumps({"rows": rows, "streamed": streamed, "features": str(data.features)}))
"""


@pytest.fixture
def hub(monkeypatch):
    with connected_hub(monkeypatch) as server:
        yield server


def rows_of(data):
    return [[row["image_id"], row["entity_labels"]] for row in data]


def test_a_pushed_build_loads_from_the_hub_and_is_a_source_itself(recipe, hub, tmp_path):
    main(recipe(push_to_hub="me/i2e", rows_per_file=12))
    names = [
        "README.md",
        *(f"data/train-0000{i}-of-00003.parquet" for i in range(3)),
        "entities.parquet",
        "report.html",
    ]
    assert sorted(set(hub.files[REPO]) - {".gitattributes"}) == names
    assert 'load_dataset("me/i2e"' in hub.files[REPO]["README.md"].decode()
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | home | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    flags = recipe(pairs="me/i2e", keep_columns=None, rows_per_shard=10)
    del flags[flags.index("--output_dir") :][:2]
    command = [sys.executable, "-c", CHECK, str(tmp_path), *flags]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    local = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
    assert [row[:2] for row in found["rows"]] == rows_of(local)
    assert found["streamed"] == found["rows"]
    assert found["features"] == str(local.features)
    for streaming in ("true", "false"):
        again = datasets.load_dataset(str(tmp_path / streaming / "i2e"), split="train")
        assert sorted(again["image_id"]) == sorted(local["image_id"])


def test_files_of_an_earlier_build_go_and_other_files_stay(recipe, hub, tmp_path):
    main(recipe(push_to_hub="me/i2e", rows_per_file=12))
    hub.files[REPO]["notes.md"] = b"written by hand"
    main(recipe(push_to_hub="me/i2e", rows_per_file=100))
    data = [name for name in hub.files[REPO] if name.startswith("data/")]
    assert data == ["data/train-00000-of-00001.parquet"]
    assert "notes.md" in hub.files[REPO]


def test_many_files_go_in_several_commits_the_card_in_the_last(recipe, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(push, "FILES_PER_COMMIT", 2)
    main(recipe(push_to_hub="me/i2e", rows_per_file=7))
    assert [commit.split(", ")[1] for commit in hub.commits] == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]
    assert len([name for name in hub.files[REPO] if name.startswith("data/")]) == 5


@pytest.mark.parametrize(
    ("break_hub", "error", "message"),
    [
        (lambda monkeypatch: monkeypatch.setenv("HF_TOKEN", READER_TOKEN), PermissionError, "refused to write me/i2e"),
        (
            lambda monkeypatch: monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
            ConnectionError,
            "out of reach",
        ),
    ],
    ids=["no right", "no network"],
)
def test_a_push_that_fails_says_why_and_leaves_the_data_set(
    break_hub, error, message, recipe, hub, tmp_path, monkeypatch
):
    break_hub(monkeypatch)
    pairs = write_pairs(tmp_path / "few.parquet", make_pairs(12))
    with pytest.raises(error, match=f"{message}.*the dataset is in"):
        main(recipe(pairs=pairs, push_to_hub="me/i2e"))
    assert len(datasets.load_dataset(str(tmp_path / "i2e"), split="train")) == 10
