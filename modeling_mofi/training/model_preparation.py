"""What a model needs before it is trained: its contrast, frozen parts, compiled and sharded towers."""

from typing import Any

import torch
from torch import nn

from ..modeling_mofi import MofiModel
from ..patch_dropout import check_patch_dropout
from ..pretraining import MofiForPreTraining
from ..towers_mofi import check_image_sizes
from .adapters import add_adapters
from .arguments import MofiTrainingArguments


MAX_GRAPHS = 64  # Of both towers: one for each kind of images, texts, batches, with and without gradient.


def compile_towers(model: MofiForPreTraining, settings: dict[str, Any]) -> None:
    """Compiles the towers, and leaves them room for the graphs that schedules and evaluation need."""
    # Torch counts both towers as one function, and runs graphs beyond its limit of 8 uncompiled.
    torch._dynamo.config.cache_size_limit = max(MAX_GRAPHS, torch._dynamo.config.cache_size_limit)
    model.mofi.vision_model.compile(**settings)
    if model.mofi.text_model is not None:
        model.mofi.text_model.compile(**settings)


def choose_sharding(plugin: Any, mofi: MofiModel) -> None:
    """Shards the towers layer by layer, unless other parts are named.

    Args:
        plugin: accelerate's settings of FSDP.

    Raises:
        ValueError: If its version is not 2, or if it loads weights on the main process alone.
    """
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_config has version {plugin.fsdp_version}; it must be 2, whose states can be saved.")
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_config has cpu_ram_efficient_loading, which loads weights on the main process alone, but each "
            "process owns other rows of the entity head. Set it to false."
        )
    if plugin.transformer_cls_names_to_wrap is None:
        # Not transformers' own choice: a part of the embeddings would be sharded twice, which fails.
        lists = [module for module in mofi.modules() if isinstance(module, nn.ModuleList)]
        plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layers in lists for layer in layers})


def contrast_scalars(mofi: MofiModel) -> dict[str, nn.Parameter]:
    """`logit_scale`, and `logit_bias` where contrast is by sigmoid."""
    scalars = {"logit_scale": mofi.logit_scale, "logit_bias": mofi.logit_bias}
    return {name: scalar for name, scalar in scalars.items() if scalar is not None}


def prepare_model(model: MofiForPreTraining, args: MofiTrainingArguments) -> None:
    """Sets the contrast, adds adapters, freezes what is not trained, and refuses what the image tower cannot do.

    Raises:
        ValueError: If a schedule asks for what the image tower cannot do, or the recipe for texts without their tower.
    """
    if args.recipe != "supervised" and not model.config.has_text_tower:
        raise ValueError(
            f"The recipe {args.recipe} needs texts, but the model has no text tower: the recipe says in none of "
            "tokenizer_name, text_init_from and init_from which. Name one, or set --recipe supervised."
        )
    if args.patch_dropout_schedule:
        check_patch_dropout(model.config.vision_config)
    if args.image_size_schedule:
        check_image_sizes(model.config.vision_config)
    if args.contrast not in (None, model.config.contrast):
        model.mofi.set_contrast(args.contrast)
    model.same_entity = args.same_entity
    if args.lora:
        add_adapters(model.mofi, args.lora)
    freeze_parts(model, args)


def freeze_parts(model: MofiForPreTraining, args: MofiTrainingArguments) -> None:
    """Freezes `frozen_parts`, and what the recipe gives no gradient, for which data-parallel wrappers would wait."""
    mofi = model.mofi
    parts = {
        "image_tower": [mofi.vision_model, mofi.visual_projection],
        "text_tower": [mofi.text_model, mofi.text_projection],
        "entity_head": [model.entity_head],
    }
    frozen = {*args.frozen_parts, *(["text_tower"] if args.recipe == "supervised" else [])}
    for name in frozen:
        for module in filter(None, parts[name]):
            module.requires_grad_(False)
    # A wrapper needs a parameter to wait for; this one never gets a gradient and never changes.
    is_idle = args.recipe == "supervised" and "image_tower" not in frozen
    mofi.logit_scale.requires_grad_(not is_idle)
    if mofi.logit_bias is not None:
        mofi.logit_bias.requires_grad_(args.recipe != "supervised")
    for name, parameter in mofi.named_parameters():
        if name.endswith("mask_token"):  # Of the self-supervision of DINOv2 and v3: no image is masked here.
            parameter.requires_grad_(False)
