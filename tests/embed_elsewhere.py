"""A published model's embeddings, made by a process that has nothing of this package."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from hub_server import Hub
from safetensors.torch import load_file


# The client reads its environment when it is imported, hence a new process.
SCRIPT = """
import sys
sys.modules["modeling_mofi"] = None
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
torch.set_num_threads(1)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, attn_implementation="eager").eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(images=Image.new("RGB", (20, 30), "red"), text=["a Red flag"], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
save_file({name: outputs[name] for name in ("image_embeds", "text_embeds")}, sys.argv[2])
"""


def embed_elsewhere(hub: Hub, repo_id: str, folder: Path) -> dict[str, torch.Tensor]:
    """`image_embeds` and `text_embeds` of a red image and "a Red flag", by the model as the Hub has it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, repo_id, str(folder / "embeds")],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return load_file(folder / "embeds")
