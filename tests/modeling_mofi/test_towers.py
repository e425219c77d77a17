"""Every family of towers: loads, trains both losses, resumes to the bit, and is published with its code."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import train_runs
from PIL import Image
from processes import run_processes
from safetensors.torch import load_file
from tiny import make_tiny_tokenizer, write_i2e
from tiny_towers import IMAGE_TOWERS, write_image_tower, write_siglip, write_text_tower
from train_runs import RECIPE, saved_tensors
from transformers import AutoImageProcessor

import train
from modeling_mofi import MofiForPreTraining, MofiModel, MofiProcessor
from modeling_mofi.training.model_building import ModelArguments, load_processor


# An image tower, and the text tower beside it: a checkpoint's, or a new one of CLIP's kind. SigLIP has both.
FAMILIES = {
    "siglip": None,
    "dinov2": "xlm-roberta",
    "dinov2_with_registers": "modernbert",
    "dinov3_vit": None,
    "dinov3_convnext": "bert",
    "vit": "siglip",
    "aimv2_vision_model": None,
    "convnextv2": None,
    "mlcd_vision_model": None,
}
NEW_TOWERS = ("vision_config", "text_config", "image_processor")
ELSEWHERE = """
import json, sys
from pathlib import Path

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_mofi":
            raise ImportError("This process has no modeling_mofi.")

sys.meta_path.insert(0, NoPackage())
import torch
torch.set_num_threads(1)
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

image = Image.new("RGB", (20, 30), "red")
for folder in json.loads(sys.argv[2]):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=image, text=["a Red flag", "Blue"], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    embeds = {name: outputs[name] for name in ("image_embeds", "text_embeds", "logits_per_image")}
    save_file({name: value.contiguous() for name, value in embeds.items()}, f"{folder}/elsewhere.safetensors")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    write_i2e(folder / "i2e")
    make_tiny_tokenizer().save_pretrained(folder / "tokenizer")
    for kind in IMAGE_TOWERS:
        write_image_tower(folder / kind, kind)
    for kind in ("bert", "xlm-roberta", "modernbert"):
        write_text_tower(folder / kind, kind)
    write_siglip(folder / "siglip")
    return folder


def model_settings(root, family):
    text = FAMILIES[family]
    settings = {"init_from": str(root / family), "projection_dim": 12}
    if text is not None:
        return {**settings, "text_init_from": str(root / text)}
    if family == "siglip":
        return settings
    return {**settings, "tokenizer_name": str(root / "tokenizer"), "text_config": RECIPE["text_config"]}


def start(root, family, output_dir, **changes):
    recipe = {name: value for name, value in RECIPE.items() if name not in NEW_TOWERS}
    recipe |= {"dataset": str(root / "i2e"), "output_dir": str(output_dir), "save_steps": 8, **changes}
    recipe |= {"learning_rate": 1e-3, "attn_implementation": "sdpa", **model_settings(root, family)}
    path = output_dir.with_suffix(".yaml")
    path.write_text(json.dumps(recipe), encoding="utf-8")
    train.main([str(path)])
    return output_dir


@pytest.fixture(scope="module")
def runs(root):
    """Folder of a whole run of ten steps of each family."""
    return {family: start(root, family, root / f"{family}-run", max_steps=10) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_both_losses_and_every_part(runs, family):
    log = json.loads((runs[family] / "trainer_state.json").read_text())["log_history"]
    losses = [entry[name] for entry in log if "loss" in entry for name in ("contrastive_loss", "entity_loss")]
    assert len(losses) == 20 and np.isfinite(losses).all()
    first = load_file(runs[family] / "checkpoint-8" / "model.safetensors")
    last = load_file(runs[family] / "model.safetensors")
    still = {name for name, value in first.items() if torch.equal(value, last[name])}
    assert all(name.endswith(("mask_token", "k_proj.bias", "key.bias")) for name in still), still


@pytest.mark.parametrize("family", FAMILIES)
def test_family_resumes_to_the_bit(root, runs, family):
    resumed = root / f"{family}-resumed"
    shutil.copytree(runs[family] / "checkpoint-8", resumed / "checkpoint-8")
    shutil.copy(runs[family] / "recipe.json", resumed)
    start(root, family, resumed, max_steps=10)
    whole, found = saved_tensors(runs[family]), saved_tensors(resumed)
    assert whole.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in whole.items())


def run(arguments):
    return train_runs.run(arguments).get("losses")  # The main process's alone.


# One pair with both contrasts: softmax over processes, and SigLIP's sigmoid.
@pytest.mark.parametrize("family", ["siglip", "dinov2_with_registers"])
def test_family_trains_on_two_processes_as_on_one(root, runs, family):
    log = json.loads((runs[family] / "trainer_state.json").read_text())["log_history"]
    expected = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    output_dir = root / f"{family}-two"
    flags = [f"--output_dir={output_dir}", "--per_device_train_batch_size=2"]
    recipe = str(runs[family].with_suffix(".yaml"))
    assert run_processes(run, 2, [recipe, *flags])[0] == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def elsewhere(root, runs):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(root / "cache"), "HF_MODULES_CACHE": str(root / "modules")}
    folders = json.dumps([str(folder) for folder in runs.values()])
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(root), folders],
        cwd=root,
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {family: load_file(folder / "elsewhere.safetensors") for family, folder in runs.items()}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_family_gives_the_same_embeddings_without_the_package(runs, elsewhere, family):
    processor = MofiProcessor.from_pretrained(runs[family])
    inputs = processor(images=Image.new("RGB", (20, 30), "red"), text=["a Red flag", "Blue"], return_tensors="pt")
    model = MofiForPreTraining.from_pretrained(runs[family]).eval().mofi
    outputs = model(**inputs)
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        torch.testing.assert_close(elsewhere[family][name], outputs[name], rtol=0, atol=1e-5)


@torch.no_grad()
def test_siglip_keeps_its_zero_shot_logits(root):
    siglip = write_siglip(root / "siglip-again")
    model = MofiModel.from_pretrained(root / "siglip-again").eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    input_ids = torch.tensor([[0, 4, 9, 2, 3, 3, 3, 3], [0, 6, 2, 3, 3, 3, 3, 3]])
    expected = siglip(input_ids=input_ids, pixel_values=pixels, return_loss=True)
    got = model(input_ids=input_ids, pixel_values=pixels, return_loss=True)
    for name in ("logits_per_image", "logits_per_text", "loss"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)
    # Shorter texts are padded in the model, which pools at the context's end whatever is attended.
    short = model(input_ids=input_ids[:, :5], attention_mask=(input_ids[:, :5] != 3).long(), pixel_values=pixels)
    torch.testing.assert_close(short.logits_per_image, expected.logits_per_image, rtol=1e-5, atol=1e-5)


def test_siglip_is_trained_from_its_own_scale_bias_and_padding(runs):
    config = json.loads((runs["siglip"] / "config.json").read_text())
    assert (config["contrast"], config["has_projections"], config["projection_dim"]) == ("sigmoid", False, 16)
    assert config["text_config"]["pad_token_id"] == 1  # The tokenizer's, where the checkpoint's own says 3.
    state = load_file(runs["siglip"] / "model.safetensors")
    assert state["logit_scale"].item() == pytest.approx(4.8, abs=0.02)
    assert state["logit_bias"].item() == pytest.approx(-12.0, abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_prepared_as_the_checkpoints_own_processor_does(root, family):
    waves = np.sin(np.arange(40)[:, None, None] / 3 + np.arange(80)[None, :, None] / 5 + np.arange(3))
    image = Image.fromarray((128 + 100 * waves).astype(np.uint8))
    own = AutoImageProcessor.from_pretrained(root / family)(images=image, return_tensors="pt")["pixel_values"]
    processor = load_processor(ModelArguments(**model_settings(root, family)))
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == own.shape
    # Others resize bytes, which rounds each pixel to one of 256 levels.
    std = min(processor.image_processor.image_std)
    torch.testing.assert_close(pixels, own, rtol=0, atol=1.5 / 255 / std)
