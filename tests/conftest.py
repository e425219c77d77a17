"""Tiny models, tokenizers and data sets, made in place; nothing here touches the network or the user's caches."""

import io
import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))  # For `processes`, which child processes import too.

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modeling_mofi import MofiConfig, MofiImageProcessor, MofiProcessor


NAMES = ("Red", "Green", "Blue", "White")  # Four entities, told apart by colour.
COLORS = ((220, 30, 30), (30, 200, 40), (20, 40, 230), (240, 240, 240))
WORDS = (
    "<bos>",
    "<pad>",
    "<eos>",
    "<unk>",
    *NAMES,
    *("a", "the", "flag", "of", "picture", "colour", "number", ","),
    *map(str, range(64)),
)
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ENTITIES_TYPE = pa.list_(
    pa.struct(
        [("entity_id", pa.string()), ("name", pa.string()), ("description", pa.string()), ("similarity", pa.float32())]
    )
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> MofiConfig:
    """Two towers of width 16, one layer each, that read 16-pixel images and eight tokens; EOS has id 2."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 0, "pad_token_id": 1}
    return MofiConfig(
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        text_config={**tower, **text, "eos_token_id": 2},
        projection_dim=16,
        num_entities=len(NAMES),
        attn_implementation="eager",
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words to ids, `<bos> ... <eos>`, at most eight tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=8,
    )


@pytest.fixture
def tiny_processor(tiny_tokenizer) -> MofiProcessor:
    """Processor of `tiny_config`: 16-pixel images, eight tokens."""
    size = {"height": 16, "width": 16}
    return MofiProcessor(MofiImageProcessor(size=size, do_center_crop=False, antialias=True), tiny_tokenizer)


def picture(color=(220, 30, 30), *, seed=0, size=(20, 18), format="PNG") -> bytes:
    """A noisy picture of one colour, as an encoded file."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size[::-1], 3))
    content = io.BytesIO()
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(content, format)
    return content.getvalue()


def tiny_rows(num_rows: int) -> dict[str, pa.Array]:
    """Columns `image_id`, `image`, `alt_text` of a pairs data set: row i is a picture of colour i modulo 4."""
    images = [{"bytes": picture(COLORS[row % 4], seed=row), "path": None} for row in range(num_rows)]
    texts = [f"a {NAMES[row % 4]} flag number {row % 64}" for row in range(num_rows)]
    ids = [f"image-{row:03d}" for row in range(num_rows)]
    return {"image_id": pa.array(ids), "image": pa.array(images, IMAGE_TYPE), "alt_text": pa.array(texts)}


@pytest.fixture
def tiny_pairs(tmp_path) -> Path:
    """Folder of image and alt-text pairs: 24 rows in `train.parquet`, three row groups."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    pq.write_table(pa.table(tiny_rows(24)), folder / "train.parquet", row_group_size=8)
    return folder


@pytest.fixture
def tiny_i2e(tmp_path) -> Path:
    """Entity-labelled folder as the data build writes it: 24 rows in two shards, four entities, one label per row."""
    folder = tmp_path / "i2e"
    (folder / "data").mkdir(parents=True)
    labels = [row % 4 for row in range(24)]
    entities = [
        [{"entity_id": f"Q{label}", "name": NAMES[label], "description": "a colour", "similarity": 0.3}]
        for label in labels
    ]
    columns = tiny_rows(24) | {
        "entities": pa.array(entities, ENTITIES_TYPE),
        "entity_labels": pa.array([[label] for label in labels], pa.list_(pa.int64())),
    }
    table = pa.table(columns).replace_schema_metadata({b"mofi.build_id": b"tiny"})
    for shard in range(2):
        part = table.slice(12 * shard, 12)
        pq.write_table(part, folder / "data" / f"train-0000{shard}-of-00002.parquet", row_group_size=6)
    write_entities(folder / "entities.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: data/train-*.parquet}]\n---\n",
        encoding="utf-8",
    )
    return folder


def write_entities(path: Path, *, entity_ids=("Q0", "Q1", "Q2", "Q3"), build_id: str = "tiny") -> None:
    """Writes entities.parquet: row i is the entity with label i."""
    table = pa.table(
        {
            "entity_label": pa.array(range(len(entity_ids)), pa.int64()),
            "entity_id": list(entity_ids),
            "name": [NAMES[row % 4] for row in range(len(entity_ids))],
            "description": ["a colour"] * len(entity_ids),
            "count": pa.array([6] * len(entity_ids), pa.int64()),
        }
    )
    pq.write_table(table.replace_schema_metadata({b"mofi.build_id": build_id.encode()}), path)
