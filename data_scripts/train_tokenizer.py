"""Trains a small tokenizer for the text tower on alt-texts and a knowledge base's names and descriptions.

    python -m data_scripts.train_tokenizer --data sample_data/pairs/train.parquet \
        --entities sample_data/entities.jsonl.gz --vocab_size 4096 --output_dir sample_data/tokenizer

Whoever starts from a CLIP checkpoint uses that checkpoint's tokenizer instead.
"""

import gzip
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.user_errors import run_command


logger = logging.getLogger(__name__)

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


@dataclass
class TokenizerArguments:
    """What to learn the vocabulary from, and where to write it."""

    data: list[str] = field(metadata={"help": "Parquet files with a column of alt-texts."})
    output_dir: str = field(metadata={"help": "Folder for tokenizer.json and its configuration."})
    entities: str | None = field(default=None, metadata={"help": "Knowledge base as JSONL, gzipped or not."})
    entity_source: str | None = field(default=None, metadata={"help": "Use only entities of this source."})
    alt_text_column: str = field(default="alt_text", metadata={"help": "Name of the column."})
    vocab_size: int = field(default=4096, metadata={"help": "Number of tokens, special ones and bytes included."})
    max_length: int = field(default=32, metadata={"help": "Longest text in tokens, BOS and EOS included."})


def train_tokenizer(texts: Iterator[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learns a lower-casing byte-level BPE that writes `<s> text </s>`, pads right and keeps EOS when it truncates."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Underscores and digits stand apart, as in 1F419_octopus.svg.
        [pre_tokenizers.Split("_", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    specials = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        truncation_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def read_texts(args: TokenizerArguments) -> Iterator[str]:
    """Yields every alt-text, then every entity's name and description."""
    for path in args.data:
        for batch in pq.ParquetFile(path).iter_batches(columns=[args.alt_text_column]):
            yield from (text for text in batch.column(0).to_pylist() if text)
    if args.entities:
        opened = gzip.open if args.entities.endswith(".gz") else open
        with opened(args.entities, "rt", encoding="utf-8") as lines:
            for entity in map(json.loads, lines):
                if args.entity_source in (None, entity.get("source")):
                    yield f"{entity['name']}, {entity.get('description') or ''}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (args,) = parse_recipe(TokenizerArguments)
    tokenizer = train_tokenizer(read_texts(args), vocab_size=args.vocab_size, max_length=args.max_length)
    tokenizer.save_pretrained(args.output_dir)
    logger.info("train_tokenizer: %s tokens -> %s", f"{len(tokenizer):,}", args.output_dir)


if __name__ == "__main__":
    run_command(main, extra="data")
