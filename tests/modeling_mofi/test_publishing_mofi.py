"""Publishing with the real client against a server that speaks the Hub's API, and what comes back."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import yaml
from hub_server import READER_TOKEN, TOKEN, running_hub
from PIL import Image
from safetensors.torch import load_file
from tiny import make_tiny_config, make_tiny_processor, write_entities

from modeling_mofi import MofiForPreTraining
from modeling_mofi.model_card_mofi import write_model_card


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
    assert "(training_curve.png)" in body and "$" not in body


def test_curve_shows_every_loss(trained):
    folder, _ = trained
    write_model_card(folder)
    colors = {color for _, color in Image.open(folder / "training_curve.png").getcolors(10_000)}
    assert {(31, 41, 55), (217, 119, 6)} <= colors  # loss and entity_loss.


def test_card_of_a_bare_checkpoint_says_what_is_not_known(tmp_path):
    make_tiny_config().save_pretrained(tmp_path)
    _, body = read_card(write_model_card(tmp_path).read_text(encoding="utf-8"))
    assert "not recorded in the checkpoint" in body and "Not evaluated yet" in body and "training_curve" not in body


def test_card_needs_to_know_which_result_is_its_own(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match=r"holds several models \(CLIP, MOFI\); say which one"):
        write_model_card(folder, results=folder.parent / "results.json")


# Environment variables of the Hub's client count at its import: hence processes of their own.
PUBLISH = """
import sys
from modeling_mofi.publishing_mofi import publish_checkpoint
from modeling_mofi import MofiModel
folder, *rest = sys.argv[1:]
if rest:
    print(MofiModel.from_pretrained(folder).push_to_hub("me/in-memory"))
results = {"results": folder + "/../results.json", "result_name": "MOFI"}
print(publish_checkpoint(folder, "me/mofi", with_entity_head=True, **results))
"""
DOWNLOAD = """
import sys
sys.modules["modeling_mofi"] = None
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
outputs = {}
for name in ("me/mofi", "me/in-memory"):
    model = AutoModel.from_pretrained(name, trust_remote_code=True, attn_implementation="eager").eval()
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    inputs = processor(images=Image.new("RGB", (20, 30), "red"), text=["a Red flag"], return_tensors="pt")
    with torch.no_grad():
        outputs[name] = model(**inputs).image_embeds
save_file(outputs, sys.argv[1])
"""


def hub_process(code, *args, url, home, token):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_published_checkpoint_comes_back_with_the_same_embeddings(trained, tmp_path):
    folder, expected = trained
    with running_hub() as hub:
        result = hub_process(PUBLISH, folder, "both", url=hub.url, home=tmp_path / "writer", token=TOKEN)
        assert result.returncode == 0, result.stderr
        files = hub.files["me/mofi"]
        assert {
            "README.md",
            "model.safetensors",
            "modeling_mofi.py",
            "entity_head.safetensors",
            "entities.parquet",
        } <= set(files)
        assert "optimizer.safetensors" not in files and "trainer_state.json" not in files
        assert read_card(files["README.md"].decode())[0]["model-index"][0]["name"] == "me/mofi"
        assert "to tell 4 entities apart" in hub.files["me/in-memory"]["README.md"].decode()
        result = hub_process(DOWNLOAD, tmp_path / "out", url=hub.url, home=tmp_path / "reader", token=None)
    assert result.returncode == 0, result.stderr
    for embeds in load_file(tmp_path / "out").values():
        torch.testing.assert_close(embeds, expected.image_embeds, rtol=0, atol=1e-6)


FAIL = """
import sys
from modeling_mofi.publishing_mofi import publish_checkpoint
from huggingface_hub import constants
folder, dead = sys.argv[1:]
for token in (None, "{reader}", "{writer}"):
    try:
        publish_checkpoint(folder, "me/mofi", token=token)
    except (ConnectionError, PermissionError) as error:
        print(type(error).__name__, error)
    if token == "{reader}":
        constants.ENDPOINT = dead
""".replace("{reader}", READER_TOKEN).replace("{writer}", TOKEN)


def test_failures_say_what_to_do_and_leave_the_files(trained, tmp_path):
    folder, _ = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    with running_hub() as hub:
        result = hub_process(FAIL, folder, dead, url=hub.url, home=tmp_path, token=None)
        assert not hub.files
    no_token, no_right, no_network = result.stdout.splitlines()
    assert "PermissionError There is no Hugging Face token" in no_token and "hf auth login" in no_token
    assert "PermissionError The Hub refused to write me/mofi (HTTP 403)" in no_right
    assert f"ConnectionError The Hub at {dead} is out of reach" in no_network
    assert all("the files are in" in line for line in (no_token, no_right, no_network))
    assert (folder / "model.safetensors").is_file()
