"""Builds of any size for the benchmarks: generated pairs, a CLIP with random weights, the sample's knowledge base."""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import spacy
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from benchmarks.generated_wikidata import SYLLABLES
from data_scripts.arguments import (
    BuildArguments,
    FilterArguments,
    LabelArguments,
    LinkArguments,
    RunArguments,
    SourceArguments,
)
from data_scripts.build_i2e import STATISTICS, plan_build, statistics_job
from data_scripts.build_knowledge_base import KnowledgeBaseArguments, build_knowledge_base
from data_scripts.engine.engines import Engine, run_job
from data_scripts.engine.jobs import single
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.phases import Build


TOKENIZER = "sample_data/tokenizer"
ROWS_PER_WRITE = 10_000


def build_sample_knowledge_base(folder: Path) -> str:
    """Builds the sample's knowledge base of 27,903 entities; returns its folder."""
    source = KnowledgeBaseArguments("sample_data/entities.jsonl.gz", str(folder / "kb"), exclusions=None)
    return str(build_knowledge_base(source))


def encode_noise(size: tuple[int, int], *, seed: int = 0) -> bytes:
    """A JPEG with some structure: noise enlarged eight times, as photographs are smooth."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_pairs(
    path: Path, knowledge_base: str, *, num_pairs: int, images: Sequence[bytes], num_new_words: int = 0
) -> str:
    """Writes pairs with distinct texts of about eight words, one of them a name; the images take turns.

    Args:
        num_new_words: Words of each text that no other text has; the text is then the name and these words.
    """
    names = open_knowledge_base(knowledge_base).table["name"].to_pylist()
    generator = random.Random(0)
    schema = pa.schema({"image": pa.binary(), "alt_text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, num_pairs, ROWS_PER_WRITE):
            numbers = range(first, min(first + ROWS_PER_WRITE, num_pairs))
            texts = [write_text(generator.choice(names), number, num_new_words=num_new_words) for number in numbers]
            content = [images[number % len(images)] for number in numbers]
            writer.write_table(pa.table({"image": content, "alt_text": texts}, schema=schema))
    return str(path)


def write_text(name: str, number: int, *, num_new_words: int) -> str:
    """A text with a name; with new words, these alone beside it, as a NER model's time grows with the words."""
    if not num_new_words:
        return f"a photo of {name} on the table, number {number}"
    return " ".join([name, *map(invent_word, range(number * num_new_words, (number + 1) * num_new_words))])


def invent_word(number: int) -> str:
    """A word of five syllables, another for every number below 128 ** 5."""
    return "".join(SYLLABLES[number // len(SYLLABLES) ** place % len(SYLLABLES)] for place in range(5))


def write_tiny_ner(folder: Path) -> str:
    """A spaCy pipeline with an untrained `ner` of a few thousand weights, as a large one but faster."""
    embed = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 32, "depth": 1, "embed_size": 500, "window_size": 1}
    embed |= {"maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
    model = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "hidden_width": 16}
    model |= {"maxout_pieces": 1, "use_upper": False, "extra_state_tokens": False, "nO": None, "tok2vec": embed}
    nlp = spacy.blank("en")
    nlp.add_pipe("ner", config={"model": model}).add_label("ORG")
    nlp.initialize()
    nlp.to_disk(folder)
    return str(folder)


def write_clip(folder: Path, *, hidden_size: int, num_layers: int, image_size: int = 224, patch_size: int = 16) -> str:
    """A CLIP whose vision tower has this size; its text tower is small."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    heads = max(1, hidden_size // 64)
    vision = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_hidden_layers": num_layers}
    vision |= {"num_attention_heads": heads, "image_size": image_size, "patch_size": patch_size}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=512)).save_pretrained(folder)
    size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    tokenizer.model_max_length = 77
    CLIPProcessor(CLIPImageProcessorPil(**size), tokenizer).save_pretrained(folder)
    return str(folder)


def plan_generated(
    pairs: str,
    output_dir: Path,
    knowledge_base: str,
    *,
    filter_model: str,
    rows_per_shard: int = 5_000,
    batch_size: int = 256,
    decode_threads: int | None = None,
    spacy_model: str | None = None,
) -> Build:
    """A planned build that keeps everything."""
    args = BuildArguments(
        SourceArguments(pairs, rows_per_shard=rows_per_shard),
        LinkArguments(knowledge_base, spacy_model=spacy_model, num_statistics_texts=1_000),
        FilterArguments(filter_model, batch_size=batch_size, keep_fraction=1.0),
        LabelArguments(min_images_per_entity=1),
        RunArguments(str(output_dir), decode_threads=decode_threads),
    )
    build = plan_build(args)
    run_job(statistics_job(build), single([STATISTICS]), engine=Engine())
    return build
