"""Tiny models and datasets, made in place; nothing here touches the network or the user's caches."""

import io
import os


os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from evaluation.benchmark import Embedder
from evaluation.encoders import PixelEncoder


COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Datasets are prepared in the test's own folder, with one thread."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    torch.set_num_threads(1)


def picture(color, *, seed=0, size=(20, 16), format="PNG"):
    """A noisy picture of one color, as a file."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size[::-1], 3))
    content = io.BytesIO()
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(content, format)
    return content.getvalue()


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows to a Parquet file with the column `image` from the files in it."""

    def write(name="rows.parquet", **columns):
        columns["image"] = [{"bytes": content, "path": None} for content in columns["image"]]
        path = tmp_path / name
        pq.write_table(pa.table(columns), path)
        return str(path)

    return write


@pytest.fixture
def colors_file(write_rows):
    """Twelve pictures, four of each color, with string and int labels."""
    names = [name for name in COLORS for _ in range(4)]
    return write_rows(
        image=[picture(COLORS[name], seed=seed) for seed, name in enumerate(names)],
        image_id=[f"{name}-{seed}" for seed, name in enumerate(names)],
        color=names,
        number=[list(COLORS).index(name) for name in names],
        alt_text=[f"a {name} thing" for name in names],
    )


@pytest.fixture
def pixels(tmp_path):
    """Embeds raw pixels."""
    return Embedder(PixelEncoder(torch.device("cpu")), tmp_path / "embeddings", batch_size=5)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP with random weights, its image processor and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    words = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "photo", "of", "the", "red", "green", "blue", "thing", ",", "."]
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 19, "bos_token_id": 1},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    tokenizer = Tokenizer(
        models.WordLevel({**{word: place for place, word in enumerate(words)}, "<end>": 19}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 19)])
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder)
    return str(folder)
