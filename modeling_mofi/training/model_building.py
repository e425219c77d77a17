"""The model that a training run starts with: new towers of given sizes, or those of checkpoints."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..configuration_mofi import WHOLE_MODELS, MofiConfig
from ..image_processing_mofi import MofiImageProcessor
from ..modeling_mofi import MofiModel
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor
from ..recipe_parser import check_choices, json_mapping
from ..towers_mofi import OF_ANY_SIZE, build_text_tower, load_tower
from .arguments import MofiTrainingArguments
from .processor_building import build_processor, image_settings


@dataclass
class ModelArguments:
    """Where the model comes from: a checkpoint, one for each tower, or the sizes of new towers."""

    init_from: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from: MOFI, CLIP, SigLIP, or an image encoder alone."},
    )
    text_init_from: str | None = field(
        default=None, metadata={"help": "Text encoder to join with init_from's image tower, with new projections."}
    )
    entity_init: Literal["random", "text"] = field(
        default="random",
        metadata={"help": "First rows of entities that init_from's head does not know; text is its embedding."},
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer; null for the checkpoint's."})
    vision_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the image tower's configuration, CLIP's by default, as JSON."}
    )
    text_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the text tower's configuration, CLIP's by default, as JSON."}
    )
    stem_channels: list[int] = field(
        default_factory=list, metadata={"help": "Channels of convolutions before the patches; none for CLIP's own."}
    )
    projection_dim: int = field(default=512, metadata={"help": "Size of the embeddings."})
    image_processor: dict | str | None = field(
        default=None, metadata={"help": "MofiImageProcessor fields for use after training, as JSON."}
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = field(
        default="sdpa", metadata={"help": "What computes attention; the last three need a GPU."}
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("vision_config", "text_config", "image_processor"):
            setattr(self, name, json_mapping(name, getattr(self, name)))
        if self.init_from is not None and (self.vision_config or self.stem_channels):
            raise ValueError("vision_config and stem_channels are for new towers; init_from has its own. Give one.")
        if self.text_init_from is not None and (self.text_config or self.init_from is None):
            raise ValueError(
                "text_init_from is the text tower beside the image tower of init_from; it goes without text_config."
            )


def starts_whole(model_args: ModelArguments) -> bool:
    """Whether both towers come from one checkpoint.

    Raises:
        ValueError: If `text_config` has sizes for a text tower that the checkpoint has.
    """
    if model_args.init_from is None or model_args.text_init_from is not None:
        return False
    found, _ = PreTrainedConfig.get_config_dict(model_args.init_from)
    is_whole = found.get("model_type") in (MofiConfig.model_type, *WHOLE_MODELS)
    if is_whole and model_args.text_config:
        raise ValueError(f"text_config is for a new text tower; {model_args.init_from} has its own. Leave it out.")
    return is_whole


def load_processor(model_args: ModelArguments) -> MofiProcessor:
    """Takes the processors of the checkpoints, or joins a tokenizer with an image processor of the given fields."""
    is_whole, settings = starts_whole(model_args), model_args.image_processor
    if not settings and model_args.init_from is not None:
        settings = image_settings(model_args.init_from)
    if not has_texts(model_args):
        return MofiProcessor(MofiImageProcessor(**settings))
    tokenizer_name = model_args.tokenizer_name or model_args.text_init_from or (is_whole and model_args.init_from)
    if not tokenizer_name:
        raise ValueError(
            "The recipe says in none of tokenizer_name, text_init_from and init_from which tokenizer to use."
        )
    text_name = model_args.init_from if is_whole else model_args.text_init_from
    text_type, context = text_tower(text_name) if text_name else text_tower_of(model_args.text_config)
    return build_processor(
        image_settings=settings, tokenizer_name=tokenizer_name, text_type=text_type, context=context
    )


def has_texts(model_args: ModelArguments) -> bool:
    """Whether the model reads texts: an image encoder that is given nothing to read with stays alone.

    A whole model that has no text tower has none to train either.
    """
    if starts_whole(model_args):
        return MofiConfig.from_pretrained(model_args.init_from).has_text_tower
    return model_args.init_from is None or bool(model_args.text_init_from or model_args.tokenizer_name)


def text_tower(name: str) -> tuple[str, int | None]:
    """Type and context of a text encoder, or of the one that a whole model has."""
    config = AutoConfig.from_pretrained(name)
    return text_tower_of(getattr(config, "text_config", config).to_dict())


def text_tower_of(fields: dict[str, Any]) -> tuple[str, int | None]:
    """Type and context of a text tower whose configuration has these fields."""
    return fields.get("model_type", "clip_text_model"), fields.get("max_position_embeddings")


def view_size(config: MofiConfig, image_processor: MofiImageProcessor) -> int:
    """Pixels a side of the images to train on: the tower's own or, where it takes any, those of the processor."""
    if config.vision_config.model_type not in OF_ANY_SIZE:
        return config.vision_config.image_size
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    return size["height"] if "height" in size else size["shortest_edge"]


def build_model(
    model_args: ModelArguments, processor: MofiProcessor, args: MofiTrainingArguments, *, num_entities: int
) -> MofiForPreTraining:
    """Loads or makes the towers, with a new entity head unless the recipe is contrastive."""
    num_entities = 0 if args.recipe == "contrastive" else num_entities
    head_settings = {
        "scale": args.entity_scale,
        "margin": args.entity_margin,
        "num_sampled_entities": args.num_sampled_entities,
        "precision": args.entity_precision,
        "seed": args.seed,
    }
    if starts_whole(model_args):
        config = MofiConfig.from_pretrained(model_args.init_from, num_entities=num_entities)
        follow_padding(config, processor)
        return MofiForPreTraining.from_pretrained(
            model_args.init_from,
            config=config,
            attn_implementation=model_args.attn_implementation,
            dtype=torch.float32,
            with_head=False,
            **head_settings,
        )
    fields = {"projection_dim": model_args.projection_dim}
    towers = load_towers(model_args, processor)
    configs = {f"{part}_config": tower.config.to_dict() for part, tower in towers.items()}
    fields["has_text_tower"] = has_texts(model_args)
    if not towers:
        configs = {"vision_config": model_args.vision_config, "text_config": new_text_config(model_args, processor)}
        fields["stem_channels"] = model_args.stem_channels or None
    config = MofiConfig(
        **configs, **fields, num_entities=num_entities, attn_implementation=model_args.attn_implementation
    )
    follow_padding(config, processor)
    model = MofiForPreTraining(config, **head_settings)
    if towers:
        joined = MofiModel.from_towers(towers["vision"], towers.get("text"), projection_dim=model_args.projection_dim)
        model.mofi.load_state_dict(joined.state_dict())
    return model


def load_towers(model_args: ModelArguments, processor: MofiProcessor) -> dict[str, PreTrainedModel]:
    """Towers of two checkpoints, or of one beside a new text tower; none where both are to be new."""
    if model_args.init_from is None:
        return {}
    vision = load_tower(model_args.init_from, part="vision_model", dtype=torch.float32)
    if not has_texts(model_args):
        return {"vision": vision}
    if model_args.text_init_from is None:
        text = build_text_tower(MofiConfig(text_config=new_text_config(model_args, processor)))
    else:
        text = load_tower(model_args.text_init_from, part="text_model", dtype=torch.float32)
    return {"vision": vision, "text": text}


def follow_padding(config: MofiConfig, processor: MofiProcessor) -> None:
    """Lets SigLIP's text tower pad as the tokenizer does, which SigLIP 2's configuration leaves unsaid."""
    if config.has_text_tower and config.text_config.model_type == "siglip_text_model":
        config.text_config.pad_token_id = processor.tokenizer.pad_token_id


def new_text_config(model_args: ModelArguments, processor: MofiProcessor) -> dict[str, Any]:
    """Fields of a new text tower's configuration, with those that its tokenizer decides."""
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    return {**sizes, **ids, **model_args.text_config}
