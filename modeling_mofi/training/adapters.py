"""Low-rank adapters on the towers: few weights learn, and what is saved has them merged into the towers' own.

Source: LoRA (https://arxiv.org/abs/2106.09685), by PEFT.
"""

from typing import Any

import torch
from torch import nn

from ..modeling_mofi import MofiModel
from .checkpoint import full_tensors
from .optimizer import LAYER


BASE, ADAPTER = ".base_layer.", ".lora_"


def add_adapters(mofi: MofiModel, settings: dict[str, Any]) -> None:
    """Freezes both towers' weights and puts adapters beside the linear layers in their numbered layers.

    Projections and the scalars of the contrast stay as they are and learn in full.

    Args:
        settings: Fields of `peft.LoraConfig`, such as `r`; its `target_modules` by default all those layers.

    Raises:
        ValueError: If PEFT does not know a setting, or finds nothing to adapt.
    """
    from peft import LoraConfig, inject_adapter_in_model  # Of the extra `lora`.

    for part in ("vision_model", "text_model"):
        if (tower := getattr(mofi, part)) is None:
            continue
        try:
            config = LoraConfig(**{"target_modules": linear_layers(tower), **settings})
            tower.requires_grad_(False)
            inject_adapter_in_model(config, tower)
        except (TypeError, ValueError) as error:
            raise ValueError(f"lora is {settings}; PEFT refuses it for {part} ({error}).") from error


def linear_layers(tower: nn.Module) -> list[str]:
    """Names of the linear layers inside a tower's numbered layers.

    Not those of a pooling head, whose weights torch's own attention reads past any adapter.
    """
    return [
        name
        for name, module in tower.named_modules()
        if type(module) is nn.Linear and LAYER.search(f"tower.{name}.weight")
    ]


def has_adapters(mofi: MofiModel) -> bool:
    """Whether a model has weights beside those that are saved."""
    return any(ADAPTER in name for name, _ in mofi.named_parameters())


@torch.no_grad()
def merged_state(mofi: MofiModel) -> dict[str, torch.Tensor]:
    """State of the towers, with every adapter added to its layer, named as without adapters; not sharded."""
    state = full_tensors(mofi.state_dict())
    if not has_adapters(mofi):
        return state
    merged = {name.replace(BASE, "."): value for name, value in state.items() if ADAPTER not in name}
    for name, module in mofi.named_modules():
        for adapter in getattr(module, "active_adapters", ()) if hasattr(module, "get_delta_weight") else ():
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + module.get_delta_weight(adapter)
    return merged
