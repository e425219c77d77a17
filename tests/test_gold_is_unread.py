"""The sample's gold columns are for measuring: neither the data build nor training sees them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from data_scripts import build_i2e
from modeling_mofi import MofiImageProcessor, MofiProcessor
from modeling_mofi.training.trainer import MofiTrainingArguments
from modeling_mofi.training.training_data import load_rows


MEASURING_COLUMNS = ["gold_entity_id", "gold_entity_name", "gold_text_entity_id", "noise", "text_kind"]
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def filter_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random dual encoder: what it keeps is arbitrary, but the same each time."""
    folder = str(tmp_path_factory.mktemp("model"))
    tokenizer = AutoTokenizer.from_pretrained("sample_data/tokenizer")
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": 2}
    config = CLIPConfig(vision_config={**TOWER, "image_size": 32}, text_config=text, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    MofiProcessor(MofiImageProcessor(size=32, crop_size=32), tokenizer).save_pretrained(folder)
    return folder


def build(pairs: pa.Table, folder: Path, filter_model: str) -> dict[str, pa.Table]:
    """Builds I2E from the pairs; returns what it published."""
    folder.mkdir()
    pq.write_table(pairs, folder / "pairs.parquet")
    flags = [f"--pairs={folder / 'pairs.parquet'}", f"--filter_model={filter_model}", f"--output_dir={folder / 'i2e'}"]
    if "gold_entity_id" not in pairs.column_names:
        flags += ["--gold_column=", "--gold_text_column="]
    build_i2e.main(["configs/build_sample.yaml", *flags, "--min_images_per_entity=1"])
    files = [*sorted((folder / "i2e" / "data").glob("*.parquet")), folder / "i2e" / "entities.parquet"]
    return {path.name: pq.read_table(path) for path in files}


def test_a_build_is_the_same_whatever_the_gold_columns_say(tmp_path: Path, filter_model: str) -> None:
    pairs = pq.read_table("sample_data/pairs/train.parquet").slice(0, 150)
    garbled = pairs
    for name in MEASURING_COLUMNS:
        garbled = garbled.set_column(garbled.schema.get_field_index(name), name, pa.array(["Q1"] * len(pairs)))
    expected = build(pairs, tmp_path / "gold", filter_model)
    found = build(garbled, tmp_path / "garbled", filter_model)
    assert expected.keys() == found.keys()
    assert all(expected[name].equals(found[name]) for name in expected)
    assert expected["entities.parquet"].num_rows > 20


def test_published_rows_have_no_gold_columns(tmp_path: Path, filter_model: str) -> None:
    pairs = pq.read_table("sample_data/pairs/train.parquet").slice(0, 60)
    published = build(pairs, tmp_path / "gold", filter_model)
    columns = {column for table in published.values() for column in table.column_names}
    assert not columns & set(MEASURING_COLUMNS)


@pytest.mark.parametrize("recipe", ["contrastive", "supervised"])
def test_training_reads_no_gold_columns(tmp_path: Path, recipe: str) -> None:
    args = MofiTrainingArguments(output_dir=str(tmp_path), recipe=recipe, use_cpu=True, report_to="none")
    rows = load_rows("sample_data/pairs/test.parquet", args)
    assert set(rows.column_names) <= {"image", "image_id", "alt_text"}
