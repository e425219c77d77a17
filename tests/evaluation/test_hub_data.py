"""Datasets, class names, prompts and heads on the Hub, by the real clients in processes of their own."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import running_hub
from tiny import make_tiny_config, make_tiny_processor, write_entities

from modeling_mofi import MofiForPreTraining
from tests.evaluation.conftest import COLORS, picture


CARD = b"""---
dataset_info:
  features:
  - {name: image, dtype: image}
  - name: label
    dtype: {class_label: {names: {'0': Red, '1': Green, '2': Blue}}}
  - {name: entity_id, dtype: string}
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
---
"""
# One process, for its imports take long: evaluates what is there, then asks for what is not.
SCRIPT = """
import sys

import evaluate_mofi
from evaluation.labeled_images import open_images

recipe, cache_dir, *asked = sys.argv[1:]
evaluate_mofi.main([recipe, "--cache_dir", cache_dir])
for data, split, column in map(str.split, asked):
    try:
        open_images(data, split=None if split == "any" else split, label_column=column)
    except (OSError, ValueError) as error:
        print("refused:", type(error).__name__, str(error).replace(chr(10), " "))
"""
ASKED = {
    "me/colors any label": "ValueError me/colors has the splits train, test; choose one with --split",
    "me/colors val label": "ValueError me/colors has no split 'val', only train, test.",
    "me/colors test name": "ValueError me/colors has no column 'name'; it has image, label, entity_id",
    "me/none any label": "FileNotFoundError me/none is neither here nor reachable as a dataset on the Hub",
    "me/colors:large test label": "ValueError me/colors:large does not open: BuilderConfig 'large' not found",
}
RECIPE = """
model: [me/mofi]
bootstrap: 0
benchmarks:
  neighbors: {task: knn, data: me/colors, split: test, gallery_split: train, label_column: label, ks: [1]}
  names:
    {task: zero_shot, data: me/colors, split: test, label_column: label,
     class_names: classnames.txt, prompts: "me/colors:prompts.txt"}
  entities: {task: entity_recognition, data: me/colors, split: test, label_column: entity_id}
  flat: {task: gpr1200, data: me/flat}
"""


def rows(count):
    """A Parquet file with pictures of the three colors in turn."""
    files = [picture(list(COLORS.values())[row % 3], seed=row) for row in range(count)]
    table = {
        "image": [{"bytes": content, "path": None} for content in files],
        "label": [row % 3 for row in range(count)],
        "entity_id": [f"Q{row % 3}" for row in range(count)],
    }
    content = io.BytesIO()
    pq.write_table(pa.table(table), content)
    return content.getvalue()


@pytest.fixture(scope="module")
def checkpoint_files(tmp_path_factory):
    """Files of a checkpoint with a head of four entities and their table."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    MofiForPreTraining(make_tiny_config()).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    write_entities(folder / "entities.parquet")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(checkpoint_files):
    """A hub with rows in two splits, GPR1200's way of a flat folder, and a model."""
    with running_hub() as hub:
        hub.files["datasets/me/colors"] = {
            "README.md": CARD,
            "data/train-00000-of-00001.parquet": rows(6),
            "data/test-00000-of-00001.parquet": rows(9),
            "classnames.txt": b"Red\nGreen\nBlue\n",
            "prompts.txt": b"a picture of {c}.\n",
        }
        hub.files["datasets/me/flat"] = {
            f"images/{category}_{seed}.jpg": picture(color, seed=seed, format="JPEG")
            for category, color in enumerate(COLORS.values())
            for seed in range(2)
        }
        hub.files["me/mofi"] = checkpoint_files
        yield hub


@pytest.fixture(scope="module")
def done(hub, tmp_path_factory):
    """What the process printed, and its results by benchmark."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "recipe.yaml").write_text(f"output: {folder}/results.json{RECIPE}")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": os.getcwd()}
    argv = [sys.executable, "-c", SCRIPT, str(folder / "recipe.yaml"), str(folder / "embeddings"), *ASKED]
    process = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads((folder / "results.json").read_text())["results"]
    return process.stdout, {result["benchmark"]: result for result in results}


def test_data_sets_and_models_of_the_hub_are_evaluated(done):
    results = done[1]
    assert {name: result["counts"]["images"] for name, result in results.items()} == {
        "neighbors": 9,
        "names": 9,
        "entities": 9,
        "flat": 6,
    }
    assert results["names"]["counts"]["classes"] == 3
    assert results["flat"]["values"]["Landmarks"]["num_queries"] == 6


def test_the_head_of_a_model_of_the_hub_names_entities(done):
    assert {"head top-1", "text top-1", "both top-1"} <= set(done[1]["entities"]["values"])


def test_what_is_not_on_the_hub_is_named(done):
    refused = [line.removeprefix("refused: ") for line in done[0].splitlines() if line.startswith("refused: ")]
    assert len(refused) == len(ASKED)
    for line, expected in zip(refused, ASKED.values(), strict=True):
        assert line.startswith(expected)
