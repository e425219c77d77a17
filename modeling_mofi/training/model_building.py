"""The model that a training run starts with: new towers of given sizes, or those of a checkpoint."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, AutoTokenizer

from ..configuration_mofi import MofiConfig
from ..image_processing_mofi import MofiImageProcessor
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor
from ..recipe_parser import check_choices, json_mapping
from .arguments import MofiTrainingArguments


MAX_CONTEXT = 100_000  # Tokenizers without a limit state one of 30 digits.


@dataclass
class ModelArguments:
    """Where the model comes from: a checkpoint, or the sizes of new towers."""

    init_from: str | None = field(default=None, metadata={"help": "MOFI or CLIP checkpoint to start from."})
    entity_init: Literal["random", "text"] = field(
        default="random",
        metadata={"help": "First rows of entities that init_from's head does not know; text is its embedding."},
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer; null for the one of init_from."})
    vision_config: dict | str | None = field(default=None, metadata={"help": "CLIPVisionConfig fields, as JSON."})
    text_config: dict | str | None = field(default=None, metadata={"help": "CLIPTextConfig fields, as JSON."})
    stem_channels: list[int] = field(
        default_factory=list, metadata={"help": "Channels of convolutions before the patches; none for CLIP's own."}
    )
    projection_dim: int = field(default=512, metadata={"help": "Size of the embeddings."})
    image_processor: dict | str | None = field(
        default=None, metadata={"help": "MofiImageProcessor fields for use after training, as JSON."}
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "eager, sdpa or flash_attention_2."})

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("vision_config", "text_config", "image_processor"):
            setattr(self, name, json_mapping(name, getattr(self, name)))
        if self.init_from is not None and (self.vision_config or self.text_config or self.stem_channels):
            raise ValueError(
                "vision_config, text_config and stem_channels are for new towers; init_from has its own. Give one."
            )


def load_processor(model_args: ModelArguments) -> MofiProcessor:
    """Takes the processor of init_from, or joins a tokenizer with an image processor of the given fields."""
    if model_args.init_from is None and model_args.tokenizer_name is None:
        raise ValueError("The recipe has neither tokenizer_name nor init_from; one must say which tokenizer to use.")
    settings = model_args.image_processor
    if model_args.init_from is not None:
        processor = AutoProcessor.from_pretrained(model_args.init_from)
        tokenizer, settings = processor.tokenizer, settings or image_settings(processor.image_processor)
    if model_args.tokenizer_name is not None:
        tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name)
    context = model_args.text_config.get("max_position_embeddings")
    return MofiProcessor(MofiImageProcessor(**settings), ending_with_eos(tokenizer, context=context))


def ending_with_eos(tokenizer: Any, *, context: int | None) -> Any:
    """Makes a tokenizer end each text with EOS, its only one, where the text tower pools.

    OPT's begins texts with its EOS and does not end them: pooled at the first EOS, all would be alike.

    Args:
        context: Tokens of the longest text, EOS included; None for the tokenizer's own limit.
    """
    if context is not None:
        tokenizer.model_max_length = context
    if tokenizer.model_max_length > MAX_CONTEXT:
        raise ValueError("The tokenizer has no model_max_length; set max_position_embeddings in text_config.")
    ids, eos = tokenizer("a")["input_ids"], tokenizer.eos_token_id
    if ids[-1] != eos or eos in ids[:-1]:
        special = [(tokenizer.eos_token, eos)]
        if tokenizer.bos_token_id not in (None, eos):
            special.insert(0, (tokenizer.bos_token, tokenizer.bos_token_id))
        template = " ".join([*(token for token, _ in special[:-1]), "$A", tokenizer.eos_token])
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def image_settings(image_processor: Any) -> dict[str, Any]:
    """Fields of a `MofiImageProcessor` that does what a MOFI or CLIP image processor does."""
    known = {name: value for name, value in image_processor.to_dict().items() if hasattr(MofiImageProcessor, name)}
    # CLIP's own resizes with antialiasing, and does not say so.
    return known if isinstance(image_processor, MofiImageProcessor) else {**known, "antialias": True}


def build_model(
    model_args: ModelArguments, processor: MofiProcessor, args: MofiTrainingArguments, *, num_entities: int
) -> MofiForPreTraining:
    """Loads or makes the towers, with a new entity head unless the recipe is contrastive."""
    num_entities = 0 if args.recipe == "contrastive" else num_entities
    head_settings = {
        "scale": args.entity_scale,
        "margin": args.entity_margin,
        "num_sampled_entities": args.num_sampled_entities,
        "seed": args.seed,
    }
    if model_args.init_from is not None:
        config = MofiConfig.from_pretrained(model_args.init_from, num_entities=num_entities)
        return MofiForPreTraining.from_pretrained(
            model_args.init_from,
            config=config,
            attn_implementation=model_args.attn_implementation,
            dtype=torch.float32,
            **head_settings,
        )
    config = MofiConfig(
        vision_config=model_args.vision_config,
        text_config={**tokenizer_settings(processor.tokenizer), **model_args.text_config},
        projection_dim=model_args.projection_dim,
        num_entities=num_entities,
        stem_channels=model_args.stem_channels or None,
    )
    config._attn_implementation = model_args.attn_implementation
    return MofiForPreTraining(config, **head_settings)


def tokenizer_settings(tokenizer: Any) -> dict[str, int]:
    """Fields of a text tower's configuration that its tokenizer decides."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, **ids}
