"""A knowledge base of a few entities, a CLIP with random weights, and pairs to build from; all made in place."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast


sys.path.insert(0, str(Path(__file__).parent))  # For `tiny_build`, which is no test.

from tiny_build import make_pairs, write_entities, write_pairs

from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base


@pytest.fixture(scope="session")
def knowledge_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("knowledge_base")
    source = write_entities(folder / "entities.jsonl")
    return str(
        build_knowledge_base(
            KnowledgeBaseArguments(source=str(source), output_dir=str(folder / "built"), exclusions=None)
        )
    )


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a CLIP that has learned nothing."""
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "<s>", "<e>", "<?>", *"abcdefghijklmnopqrstuvwxyz ,.-"])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<?>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <e>", special_tokens=[("<s>", 1), ("<e>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<e>", unk_token="<?>", model_max_length=24
    )
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(vocabulary), "max_position_embeddings": 24, "eos_token_id": 2}
    vision = tower | {"image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPProcessor(CLIPImageProcessorPil(**sizes), fast).save_pretrained(path)
    return str(path)


@pytest.fixture
def recipe(tmp_path: Path, knowledge_base: str, clip: str) -> Callable[..., list[str]]:
    """Makes the arguments of a small build of 36 pairs in shards of 12; settings override."""

    def make(**settings: Any) -> list[str]:
        values = {
            "pairs": settings.get("pairs") or write_pairs(tmp_path / "pairs.parquet", make_pairs(36)),
            "image_id_column": "image_id",
            "keep_columns": "licence",
            "knowledge_base": knowledge_base,
            "filter_model": clip,
            "keep_fraction": 1.0,
            "rows_per_shard": 12,
            "batch_size": 5,
            "min_images_per_entity": 2,
            "output_dir": tmp_path / "i2e",
        } | settings
        flags = [[f"--{name}", str(value)] for name, value in values.items() if value is not None]
        return [word for flag in flags for word in flag]

    return make
