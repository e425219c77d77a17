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
  listed: {task: listed_retrieval, data: me/listed, revision: main}
  revisited: {task: listed_retrieval, data: me/listed, protocol: revisited}
"""
LISTED_CARD = b"""---
configs:
- config_name: query
  data_files: [{split: test, path: query-*}]
- config_name: corpus
  data_files: [{split: corpus, path: corpus-*}]
- config_name: qrels
  data_files: [{split: test, path: qrels-*}]
---
"""


def rows(count):
    """A Parquet file with pictures of the three colors in turn."""
    files = [picture(list(COLORS.values())[row % 3], seed=row) for row in range(count)]
    table = {
        "image": [{"bytes": content, "path": None} for content in files],
        "label": [row % 3 for row in range(count)],
        "entity_id": [f"Q{row % 3}" for row in range(count)],
    }
    return parquet(**table)


def parquet(**columns):
    """A Parquet file."""
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def listed_set():
    """Queries, corpus and lists in the layout of MTEB's image sets; query q0 is in the corpus as c0.

    The list of q0 names its color as relevant and one image of another color as wrong; all others are not listed.
    """
    files = [picture(list(COLORS.values())[row % 3], seed=row) for row in range(6)]
    image = lambda content: {"bytes": content, "path": None}  # noqa: E731
    query = {"id": ["q0", "q1"], "modality": ["image"] * 2, "image": [image(files[0]), image(files[1])]}
    corpus = {"id": [f"c{row}" for row in range(6)], "modality": ["image"] * 6, "image": list(map(image, files))}
    lists = {"query-id": ["q0", "q0", "q0"], "corpus-id": ["c0", "c3", "c4"], "score": pa.array([1, 1, 0], pa.int8())}
    return {
        "README.md": LISTED_CARD,
        "query-00000-of-00001.parquet": parquet(**query),
        "corpus-00000-of-00001.parquet": parquet(**corpus),
        "qrels-00000-of-00001.parquet": parquet(**lists),
    }


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
        hub.files["datasets/me/listed"] = listed_set()
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
        "listed": 2,
        "revisited": 2,
    }
    assert results["names"]["counts"]["classes"] == 3
    assert results["flat"]["values"]["Landmarks"]["num_queries"] == 6


def test_lists_of_the_hub_say_what_is_relevant(done):
    listed, revisited = done[1]["listed"], done[1]["revisited"]
    assert list(listed["values"]) == ["mAP", "R@1", "mMP@5"]
    assert list(revisited["values"]) == ["mAP", "mP@1", "mP@5", "mP@10"]
    for result in (listed, revisited):
        assert result["counts"] | {"excluded_queries": 1, "corpus": 6} == result["counts"]
        assert result["values"]["mAP"]["num_queries"] == 1
    # Without junk two images are left, c3 and c4, and of the same file c0 none: the first of two, or the second.
    assert revisited["values"]["mAP"]["value"] in (1.0, 0.25)


def test_the_head_of_a_model_of_the_hub_names_entities(done):
    assert {"head top-1", "text top-1", "both top-1"} <= set(done[1]["entities"]["values"])


def test_what_is_not_on_the_hub_is_named(done):
    refused = [line.removeprefix("refused: ") for line in done[0].splitlines() if line.startswith("refused: ")]
    assert len(refused) == len(ASKED)
    for line, expected in zip(refused, ASKED.values(), strict=True):
        assert line.startswith(expected)
