"""Folders in the layout of Apple's release, with all three sizes shrunk."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast


# Widths, layers and patch sizes of B/16, L/14 and H/14 in proportion; heads of 8 instead of 64.
SIZES = {
    "b16": {"vision": (24, 2, 16, 32), "text": (16, 2), "projection_dim": 16},
    "l14": {"vision": (32, 3, 14, 28), "text": (24, 2), "projection_dim": 24},
    "h14": {"vision": (40, 4, 14, 28), "text": (32, 3), "projection_dim": 32},
}
WORDS = ["a", "photo", "of", "poodle", "husky", "cat", "the", "flag"]


def tokenizer(*, eos_id: int, writes_eos: bool = True, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Whole words, with BOS 1 and PAD 0 as the release's training had them."""
    vocabulary = {"<pad>": 0, "<s>": 1, "<unk>": 3, "</s>": eos_id} | {word: 4 + i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "<s> $A </s>" if writes_eos else "<s> $A"
    words.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", eos_id)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side=padding_side, **special)


def write_release(
    folder: Path, *, size: str = "b16", config_eos: int = 2, eos_id: int = 2, **options: Any
) -> CLIPModel:
    """A release of one size, and the CLIP model in it."""
    width, layers, patch_size, image_size = SIZES[size]["vision"]
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    vision |= {"num_attention_heads": width // 8, "patch_size": patch_size, "image_size": image_size}
    width, layers = SIZES[size]["text"]
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    text |= {"num_attention_heads": width // 8, "vocab_size": 20, "max_position_embeddings": 9}
    text |= {"eos_token_id": config_eos, "hidden_act": "gelu_new"}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=SIZES[size]["projection_dim"])
    model = CLIPModel(config).eval()
    shards = {"max_shard_size": options.pop("max_shard_size")} if "max_shard_size" in options else {}
    model.save_pretrained(folder, **shards)
    tokenizer(eos_id=eos_id, **options).save_pretrained(folder)
    (folder / "LICENSE").write_text("Apple's terms", encoding="utf-8")
    return model
