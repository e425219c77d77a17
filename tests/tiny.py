"""Tiny configurations, tokenizers and datasets; `conftest.py` makes fixtures of them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modeling_mofi import MofiConfig, MofiImageProcessor, MofiProcessor


NAMES = ("Red", "Green", "Blue", "White")  # Four entities, told apart by color.
COLORS = ((220, 30, 30), (30, 200, 40), (20, 40, 230), (240, 240, 240))
WORDS = (
    *("<bos>", "<pad>", "<eos>", "<unk>"),
    *NAMES,
    *("a", "the", "flag", "of", "picture", "color", "number", ","),
    *map(str, range(64)),
)
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ENTITY_FIELDS = [(name, pa.string()) for name in ("entity_id", "name", "description")] + [("similarity", pa.float32())]
DATASET_CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: data/train-*.parquet}]
---
"""


def make_tiny_config() -> MofiConfig:
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


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words to ids, `<bos> ... <eos>`, at most eight tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 2)]
    )
    special = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8, **special)


def make_tiny_processor() -> MofiProcessor:
    """Processor of the tiny configuration: 16-pixel images, eight tokens."""
    size = {"height": 16, "width": 16}
    image_processor = MofiImageProcessor(size=size, do_center_crop=False, antialias=True)
    return MofiProcessor(image_processor, make_tiny_tokenizer())


def picture(color=(220, 30, 30), *, seed=0, size=(20, 18), format="PNG") -> bytes:
    """A noisy picture of one color, as an encoded file."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size[::-1], 3))
    content = io.BytesIO()
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(content, format)
    return content.getvalue()


def tiny_rows(num_rows: int) -> dict[str, pa.Array]:
    """Columns `image_id`, `image`, `alt_text` of a pairs dataset: row i is a picture of color i modulo 4."""
    images = [{"bytes": picture(COLORS[row % 4], seed=row), "path": None} for row in range(num_rows)]
    texts = [f"a {NAMES[row % 4]} flag number {row % 64}" for row in range(num_rows)]
    ids = [f"image-{row:03d}" for row in range(num_rows)]
    return {"image_id": pa.array(ids), "image": pa.array(images, IMAGE_TYPE), "alt_text": pa.array(texts)}


def write_pairs(folder: Path, *, num_rows: int = 24) -> Path:
    """Image and alt-text pairs in `train.parquet`, eight rows a row group."""
    folder.mkdir(parents=True)
    pq.write_table(pa.table(tiny_rows(num_rows)), folder / "train.parquet", row_group_size=8)
    return folder


def write_i2e(folder: Path, *, num_rows: int = 24) -> Path:
    """Entity-labeled images as the data build writes them: two shards, four entities, one label per row."""
    (folder / "data").mkdir(parents=True)
    labels = [row % 4 for row in range(num_rows)]
    entities = [
        [{"entity_id": f"Q{label}", "name": NAMES[label], "description": "a color", "similarity": 0.3}]
        for label in labels
    ]
    columns = tiny_rows(num_rows) | {
        "entities": pa.array(entities, pa.list_(pa.struct(ENTITY_FIELDS))),
        "entity_labels": pa.array([[label] for label in labels], pa.list_(pa.int64())),
    }
    table = pa.table(columns).replace_schema_metadata({b"mofi.build_id": b"tiny"})
    for shard in range(2):
        part = table.slice(shard * num_rows // 2, (shard + 1) * num_rows // 2 - shard * num_rows // 2)
        pq.write_table(part, folder / "data" / f"train-0000{shard}-of-00002.parquet", row_group_size=6)
    write_entities(folder / "entities.parquet")
    (folder / "README.md").write_text(DATASET_CARD, encoding="utf-8")
    return folder


def write_training_data(folder: Path) -> Path:
    """Writes what tests of whole training runs need: a processor, I2E, and images with a label to evaluate on."""
    make_tiny_processor().save_pretrained(folder / "processor")
    write_i2e(folder / "i2e")
    table = pq.read_table(folder / "i2e" / "data" / "train-00000-of-00002.parquet")
    labels = [row[0] for row in table["entity_labels"].to_pylist()]
    pq.write_table(table.append_column("label", [labels]), folder / "labeled.parquet")
    return folder


def write_entities(path: Path, *, entity_ids=("Q0", "Q1", "Q2", "Q3"), build_id: str = "tiny") -> None:
    """Writes entities.parquet: row i is the entity with label i."""
    table = pa.table(
        {
            "entity_label": pa.array(range(len(entity_ids)), pa.int64()),
            "entity_id": list(entity_ids),
            "name": [NAMES[row % 4] for row in range(len(entity_ids))],
            "description": ["a color"] * len(entity_ids),
            "count": pa.array([6] * len(entity_ids), pa.int64()),
        }
    )
    pq.write_table(table.replace_schema_metadata({b"mofi.build_id": build_id.encode()}), path)
