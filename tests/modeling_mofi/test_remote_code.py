"""A saved checkpoint loads in a process and a folder that never saw this package."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import make_tiny_config, make_tiny_processor

from modeling_mofi import MofiForImageClassification, MofiForPreTraining, MofiVisionModelWithProjection


# One process for all tests, since importing torch and transformers is what takes time.
FRESH_PROCESS = """
import json, sys
from pathlib import Path

class NoPackage:
    # Even where the package is installed, this process does not get it.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_mofi":
            raise ImportError("This process has no modeling_mofi.")

sys.meta_path.insert(0, NoPackage())
import torch
torch.set_num_threads(1)
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor
from transformers import pipeline

root = Path(sys.argv[1])
folder, found = root / "checkpoint", {}
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except Exception as error:
    found["untrusted"] = f"{type(error).__name__}: {error}"

image, trust = Image.new("RGB", (20, 30), "red"), {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(folder, **trust)
model = AutoModel.from_pretrained(folder, attn_implementation="eager", **trust).eval()
with torch.no_grad():
    outputs = model(**processor(images=image, text=["a Red flag", "Blue"], return_tensors="pt"))
tensors = {name: outputs[name] for name in ("image_embeds", "text_embeds")}

labels = pipeline("zero-shot-image-classification", model=str(folder), **trust)(
    image, candidate_labels=["Red", "Blue"], hypothesis_template="a {} flag"
)
found["labels"] = {label["label"]: label["score"] for label in labels}
extract = pipeline("image-feature-extraction", model=str(folder), **trust)
tensors["extracted"] = extract(image, return_tensors=True)
tensors["pooled"] = extract(image, pool=True, return_tensors=True)

# What a user trains further and saves is published the same way.
model.save_pretrained(root / "again")
again = AutoModel.from_pretrained(root / "again", **trust)
tensors["projection"], tensors["saved_again"] = model.visual_projection.weight, again.visual_projection.weight

classifier = AutoModelForImageClassification.from_pretrained(root / "classifier", **trust)
kinds = {
    "config": AutoConfig.from_pretrained(folder, **trust),
    "image_processor": AutoImageProcessor.from_pretrained(folder, **trust),
    "classifier": classifier,
    "tower": AutoModel.from_pretrained(root / "tower", **trust),
}
found["kinds"] = {name: type(value).__name__ for name, value in kinds.items()}
found["num_labels"] = classifier.config.num_labels
save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, root / "output.safetensors")
(root / "output.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder with checkpoints, and the embeddings that they give here."""
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    model, processor = MofiForPreTraining(make_tiny_config()).eval(), make_tiny_processor()
    model.save_pretrained(root / "checkpoint")
    processor.save_pretrained(root / "checkpoint")
    MofiForImageClassification.from_pretrained(root / "checkpoint", num_labels=5).save_pretrained(root / "classifier")
    MofiVisionModelWithProjection.from_pretrained(root / "checkpoint").save_pretrained(root / "tower")
    image = Image.new("RGB", (20, 30), "red")
    with torch.no_grad():
        outputs = model.mofi(**processor(images=image, text=["a Red flag", "Blue"], return_tensors="pt"))
    return root, outputs


@pytest.fixture(scope="module")
def elsewhere(checkpoint):
    """What a process with its own caches and working directory makes of the checkpoints."""
    root, _ = checkpoint
    (root / "elsewhere").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(root / "cache"), "HF_MODULES_CACHE": str(root / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(root)],
        cwd=root / "elsewhere",
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return json.loads((root / "output.json").read_text(encoding="utf-8")), load_file(root / "output.safetensors")


def test_embeddings_are_the_same_without_the_package(checkpoint, elsewhere):
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(elsewhere[1][name], checkpoint[1][name], rtol=0, atol=1e-6)


def test_code_is_not_run_without_trust(elsewhere):
    assert elsewhere[0]["untrusted"].startswith("ValueError") and "trust_remote_code=True" in elsewhere[0]["untrusted"]


def test_every_auto_class_finds_its_class(elsewhere):
    assert elsewhere[0]["kinds"] == {
        "config": "MofiConfig",
        "image_processor": "MofiImageProcessor",
        "classifier": "MofiForImageClassification",
        "tower": "MofiVisionModelWithProjection",
    }
    assert elsewhere[0]["num_labels"] == 5


def test_pipelines_give_probabilities_and_embeddings(checkpoint, elsewhere):
    assert sum(elsewhere[0]["labels"].values()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(elsewhere[1]["extracted"], checkpoint[1].image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(elsewhere[1]["pooled"], checkpoint[1].image_embeds, rtol=0, atol=1e-5)


def test_model_saved_again_is_published_again(elsewhere):
    assert torch.equal(elsewhere[1]["saved_again"], elsewhere[1]["projection"])


def test_folder_holds_only_the_files_that_loading_needs(checkpoint):
    folder = checkpoint[0] / "checkpoint"
    sources = {path.name for path in folder.glob("*.py")}
    assert {"configuration_mofi.py", "modeling_mofi.py", "image_processing_mofi.py", "processing_mofi.py"} <= sources
    assert not sources & {"trainer_mofi.py", "pretraining_mofi.py", "entity_head_mofi.py", "__init__.py"}
    assert "entity_head.weight" not in load_file(folder / "model.safetensors")
