"""Publishing at the end of a training run, with the real client against a server that speaks the Hub's API."""

import json

import pyarrow.parquet as pq
import pytest
import torch
import train_runs
import yaml
from embed_elsewhere import embed_elsewhere
from hub_server import READER_TOKEN, TOKEN, connected_hub
from huggingface_hub import constants
from PIL import Image
from tiny import make_tiny_processor, write_entities, write_i2e

import train
from modeling_mofi import MofiModel, MofiProcessor
from modeling_mofi.search.entity_index import EntityIndex
from modeling_mofi.training.trainer import MofiTrainer


IMAGE, TEXT = Image.new("RGB", (20, 30), "red"), "a Red flag"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Writes a recipe of four steps that ends with publishing as me/run, with changes; returns its path."""
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    dataset, tokenizer = str(write_i2e(folder / "i2e")), str(folder / "processor")

    def write(output_dir, **changes):
        settings = {"dataset": dataset, "tokenizer_name": tokenizer, "output_dir": str(output_dir), "max_steps": 4}
        settings |= {"save_steps": 2, "push_to_hub": True, "hub_model_id": "me/run"}
        return train_runs.write_recipe(folder, **{**settings, **changes})

    return write


@pytest.fixture(scope="module")
def published(recipe, tmp_path_factory):
    """The server after a run was published on it, and the run's folder."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as monkeypatch, connected_hub(monkeypatch) as server:
        train.main([recipe(folder / "run", hub_token=TOKEN)])
        yield server, folder / "run"


def test_a_run_ends_with_one_commit_of_all_that_others_need(published):
    hub, _ = published
    files = hub.files["me/run"]
    assert hub.commits == ["Upload MOFI"]
    for name in ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "entities.parquet"):
        assert name in files, name
    assert {"modeling_mofi.py", "configuration_mofi.py", "image_processing_mofi.py", "processing_mofi.py"} <= set(
        files
    )
    assert {"README.md", "training_curve.png", "recipe.json"} <= set(files)
    private = [name for name in files if name.endswith(".bin") or "optimizer" in name or "checkpoint-" in name]
    assert not private and "entity_head.safetensors" not in files
    assert not any(TOKEN.encode() in content for content in files.values())


def test_the_card_tells_how_the_run_was_trained(published):
    card = published[0].files["me/run"]["README.md"].decode()
    front_matter, _, body = card.removeprefix("---\n").partition("---\n")
    data = yaml.safe_load(front_matter)
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "image-feature-extraction"
    assert "The run took 4 steps" in body and "to tell 4 entities apart" in body and "`learning_rate` | `0.01`" in body


def test_what_was_published_embeds_elsewhere_as_here(published, tmp_path):
    hub, folder = published
    embeds_elsewhere = embed_elsewhere(hub, "me/run", tmp_path)
    model = MofiModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = MofiProcessor.from_pretrained(folder)(images=IMAGE, text=[TEXT], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    for name, embeds in embeds_elsewhere.items():
        assert torch.equal(embeds, outputs[name]), name


def test_the_trainer_publishes_the_head_on_request(recipe, tmp_path, monkeypatch):
    publish = MofiTrainer.push_to_hub
    monkeypatch.setattr(MofiTrainer, "push_to_hub", lambda self: publish(self, "With head", with_entity_head=True))
    with connected_hub(monkeypatch) as hub:
        train.main([recipe(tmp_path / "run")])
        assert "entity_head.safetensors" in hub.files["me/run"] and hub.commits == ["With head"]


@pytest.mark.parametrize(
    ("break_hub", "error", "message"),
    [
        (lambda patch: patch.setenv("HF_TOKEN", READER_TOKEN), PermissionError, "refused to write me/run"),
        (lambda patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), ConnectionError, "is out of reach"),
        (lambda patch: patch.delenv("HF_TOKEN"), PermissionError, "no Hugging Face token.*hf auth login"),
    ],
    ids=["no right", "no network", "no token"],
)
def test_what_forbids_publishing_is_said_before_training(recipe, tmp_path, monkeypatch, break_hub, error, message):
    with connected_hub(monkeypatch) as hub:
        hub.files["me/run"] = {}
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
        break_hub(monkeypatch)
        with pytest.raises(error, match=f"{message}.*training has not begun"):
            train.main([recipe(tmp_path / "run")])
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_hub_that_is_gone_at_the_end_costs_nothing_but_another_start(recipe, tmp_path, monkeypatch):
    with connected_hub(monkeypatch) as hub:
        with monkeypatch.context() as patch:
            patch.setattr(MofiTrainer, "save_state", lambda self: patch.setattr(constants, "HF_HUB_OFFLINE", True))
            with pytest.raises(ConnectionError, match=f"out of reach.*the files are in {tmp_path}/run"):
                train.main([recipe(tmp_path / "run")])
        assert (tmp_path / "run" / "model.safetensors").is_file() and not hub.commits
        train.main([recipe(tmp_path / "run")])
        assert hub.commits == ["Upload MOFI"]


def test_a_head_with_the_entities_of_another_run_is_refused(published, tmp_path):
    _, folder = published
    assert json.loads((folder / "config.json").read_text())["entities_sha256"]
    assert len(EntityIndex.from_checkpoint(folder)) == 4
    path = folder / "entities.parquet"
    own = pq.read_table(path)
    try:
        write_entities(path, entity_ids=("Q3", "Q2", "Q1", "Q0"))
        with pytest.raises(ValueError, match="not the one that its head was trained with"):
            EntityIndex.from_checkpoint(folder)
        assert len(EntityIndex.from_checkpoint(folder, source="text")) == 4
    finally:
        pq.write_table(own, path)
