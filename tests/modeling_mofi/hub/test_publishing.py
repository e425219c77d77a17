"""Publishing with the real client against a server that speaks the Hub's API, and what comes back."""

import hashlib
import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from embed_elsewhere import embed_elsewhere
from hub_server import READER_TOKEN, connected_hub
from huggingface_hub import constants, hf_hub_download
from PIL import Image
from safetensors.torch import save_file
from tiny import make_tiny_config, make_tiny_processor, write_entities

from modeling_mofi import MofiForPreTraining, MofiModel
from modeling_mofi.hub.model_card import write_model_card
from modeling_mofi.hub.publishing import publish_checkpoint


RECIPE = {"recipe": "multi-task", "dataset": "me/i2e", "learning_rate": 1e-3, "max_steps": 40, "entity_margin": 0.1}
LOG = [{"step": step, "loss": 5 - step / 20, "entity_loss": 6 - step / 10} for step in (10, 20, 30, 40)]
MODEL_INDEX = {
    "model-index": [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": "image-feature-extraction", "name": "retrieval"},
                    "dataset": {"type": "test.parquet", "name": "unseen entities"},
                    "metrics": [{"type": "map", "value": value}],
                }
            ],
        }
        for name, value in (("CLIP", 0.25), ("MOFI", 0.5))
    ]
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint folder as training leaves it, and what its model embeds."""
    folder = tmp_path_factory.mktemp("run") / "mofi"
    torch.manual_seed(0)
    model, processor = MofiForPreTraining(make_tiny_config()).eval(), make_tiny_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_entities(folder / "entities.parquet")
    (folder / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    state = {"global_step": 40, "epoch": 2.0, "log_history": LOG}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "optimizer.safetensors").write_bytes(b"not for others")
    (folder.parent / "results.model-index.json").write_text(json.dumps(MODEL_INDEX), encoding="utf-8")
    inputs = processor(images=Image.new("RGB", (20, 30), "red"), text=["a Red flag"], return_tensors="pt")
    with torch.no_grad():
        return folder, model.mofi(**inputs)


def read_card(text):
    front_matter, _, body = text.removeprefix("---\n").partition("---\n")
    return yaml.safe_load(front_matter), body


def test_card_is_filled_from_the_checkpoint(trained):
    folder, _ = trained
    path = write_model_card(
        folder, model_id="me/mofi", license="cc-by-4.0", results=folder.parent / "results.json", result_name="MOFI"
    )
    data, body = read_card(path.read_text(encoding="utf-8"))
    assert (data["license"], data["datasets"], data["library_name"]) == ("cc-by-4.0", ["me/i2e"], "transformers")
    assert [entry["name"] for entry in data["model-index"]] == ["me/mofi"]
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    for fact in (
        "to tell 4 entities apart",
        "| `learning_rate` | `0.001` |",
        "40 steps, 2.0 epochs",
        "0.5000",
        "16 num",
    ):
        assert fact in body, fact
    assert "(training_curve.png)" in body and "{%" not in body


def test_curve_shows_every_loss(trained):
    folder, _ = trained
    write_model_card(folder)
    colors = {color for _, color in Image.open(folder / "training_curve.png").convert("RGB").getcolors(10_000)}
    assert {(31, 41, 55), (217, 119, 6)} <= colors  # loss and entity_loss.


def test_card_of_a_bare_checkpoint_says_what_is_not_known(tmp_path):
    make_tiny_config().save_pretrained(tmp_path)
    _, body = read_card(write_model_card(tmp_path).read_text(encoding="utf-8"))
    assert "not recorded in the checkpoint" in body and "Not evaluated yet" in body and "training_curve" not in body


def test_card_needs_to_know_which_result_is_its_own(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match=r"holds several models \(CLIP, MOFI\); say which one"):
        write_model_card(folder, results=folder.parent / "results.json")


@pytest.fixture
def hub(monkeypatch):
    with connected_hub(monkeypatch) as server:
        yield server


def test_upload_holds_all_that_loading_needs_and_no_more(trained, hub):
    folder, _ = trained
    url = publish_checkpoint(folder, "me/mofi", result_name="MOFI", results=folder.parent / "results.json")
    files = hub.files["me/mofi"]
    assert url.startswith(f"{hub.url}/me/mofi/commit/") and hub.commits == ["Upload MOFI"]
    assert {"README.md", "model.safetensors", "modeling_mofi.py", "tokenizer.json", "entities.parquet"} <= set(files)
    assert not set(files) & {"optimizer.safetensors", "trainer_state.json", "entity_head.safetensors"}
    assert read_card(files["README.md"].decode())[0]["model-index"][0]["name"] == "me/mofi"


def test_entity_head_is_uploaded_on_request(trained, hub):
    publish_checkpoint(trained[0], "me/with-head", with_entity_head=True, with_entities=False, private=True)
    assert (
        "entity_head.safetensors" in hub.files["me/with-head"] and "entities.parquet" not in hub.files["me/with-head"]
    )


def test_model_in_memory_is_published_with_its_processor_and_card(trained, hub):
    MofiModel.from_pretrained(trained[0]).push_to_hub("me/in-memory")
    files = hub.files["me/in-memory"]
    assert {"processor_config.json", "tokenizer.json", "configuration_mofi.py"} <= set(files)
    assert "to tell 4 entities apart" in files["README.md"].decode()


def test_lost_network_does_not_lose_a_model_in_memory(trained, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="Nothing is lost: the model is still in memory"):
        MofiModel.from_pretrained(trained[0]).push_to_hub("me/in-memory")


def test_second_upload_replaces_the_first(trained, hub):
    for license in ("mit", "cc0-1.0"):
        publish_checkpoint(trained[0], "me/mofi", license=license)
    assert len(hub.commits) == 2 and read_card(hub.files["me/mofi"]["README.md"].decode())[0]["license"] == "cc0-1.0"


def test_published_checkpoint_comes_back_with_the_same_embeddings(trained, hub, tmp_path):
    folder, expected = trained
    publish_checkpoint(folder, "me/mofi")
    for name, embeds in embed_elsewhere(hub, "me/mofi", tmp_path).items():
        torch.testing.assert_close(embeds, expected[name], rtol=0, atol=1e-6)


def test_missing_token_is_explained(trained, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(PermissionError, match="no Hugging Face token.*hf auth login.*the files are in"):
        publish_checkpoint(trained[0], "me/mofi")
    assert not hub.files


def test_missing_right_is_explained(trained, hub):
    with pytest.raises(PermissionError, match=r"refused to write me/mofi.*HTTP 403.*the files are in"):
        publish_checkpoint(trained[0], "me/mofi", token=READER_TOKEN)
    assert not hub.files and (trained[0] / "model.safetensors").is_file()


def test_dead_network_is_explained(trained, hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    with pytest.raises(ConnectionError, match=f"The Hub at {dead} is out of reach.*the files are in"):
        publish_checkpoint(trained[0], "me/mofi")


def test_offline_machine_is_explained(trained, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        publish_checkpoint(trained[0], "me/mofi")


def test_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        publish_checkpoint(tmp_path, "me/mofi")


def big_checkpoint(trained, folder):
    """A copy of the checkpoint whose head file has 108 MB, three parts and a rest."""
    shutil.copytree(trained[0], folder)
    save_file({"weight": torch.arange(27_000_000, dtype=torch.float32)}, folder / "entity_head.safetensors")
    return folder


def test_file_of_100_mb_travels_in_parts_and_comes_back_whole(trained, hub, tmp_path):
    folder = big_checkpoint(trained, tmp_path / "big")
    publish_checkpoint(folder, "me/big", with_entity_head=True)
    assert sum(path.startswith("/lfs-part/") for path in hub.uploads) == 4 and not hub.parts
    copy = hf_hub_download("me/big", "entity_head.safetensors", cache_dir=tmp_path / "cache")
    with open(copy, "rb") as back, open(folder / "entity_head.safetensors", "rb") as sent:
        assert hashlib.file_digest(back, "sha256").digest() == hashlib.file_digest(sent, "sha256").digest()


def test_upload_that_breaks_off_is_explained_and_goes_on_with_what_is_missing(trained, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    folder = big_checkpoint(trained, tmp_path / "big")
    hub.max_uploads = 6
    with pytest.raises(ConnectionError, match=r"is out of reach.*publish again.*not sent twice.*the files are in"):
        publish_checkpoint(folder, "me/big", with_entity_head=True)
    assert not hub.commits and set(hub.files["me/big"]) == {".gitattributes"}
    whole = {path for path in hub.uploads if path.startswith("/lfs/")}
    assert whole
    hub.max_uploads, hub.uploads = None, []
    publish_checkpoint(folder, "me/big", with_entity_head=True)
    assert "entity_head.safetensors" in hub.files["me/big"] and not whole & set(hub.uploads)


def test_two_uploads_at_once_leave_a_whole_repository(trained, hub, tmp_path):
    folders = [shutil.copytree(trained[0], tmp_path / name) for name in ("here", "there")]
    with ThreadPoolExecutor(2) as pool:
        urls = list(pool.map(lambda folder: publish_checkpoint(folder, "me/twice"), folders))
    assert len(urls) == len(hub.commits) == 2 and "model.safetensors" in hub.files["me/twice"]
