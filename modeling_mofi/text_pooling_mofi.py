"""Which token's state stands for a text: an explicit choice of `MofiConfig`, made here."""

from typing import Any

import torch
from transformers import CLIPTextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_mofi import MofiConfig


def encode_texts(
    text_model: CLIPTextModel,
    config: MofiConfig,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    """Runs the text tower on `[B, L]` and pools as the configuration says."""
    outputs = text_model(input_ids=input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True})
    # CLIPTextModel pools at the highest id whenever eos_token_id is 2, which is wrong where EOS really has id 2.
    outputs.pooler_output = pool_text(outputs.last_hidden_state, config, input_ids, attention_mask)
    return outputs


def pool_text(
    hidden_states: torch.Tensor, config: MofiConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Takes each text's state at the position that `text_pooling` names: `[B, L, H]` to `[B, H]`."""
    input_ids = input_ids.view(-1, input_ids.shape[-1]).to(hidden_states.device)
    if config.text_pooling == "argmax":
        positions = input_ids.to(torch.int).argmax(dim=-1)
    else:
        is_eos = input_ids == config.text_config.eos_token_id
        if config.text_config.bos_token_id == config.text_config.eos_token_id:
            is_eos = is_eos & (torch.arange(input_ids.shape[1], device=input_ids.device) > 0)
        positions = torch.where(
            is_eos.any(dim=-1), is_eos.int().argmax(dim=-1), last_attended(input_ids, attention_mask)
        )
    return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), positions]


def last_attended(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Position of each text's last attended token, `[B]`."""
    if attention_mask is None:
        return torch.full(input_ids.shape[:1], input_ids.shape[1] - 1, device=input_ids.device)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (positions * attention_mask.view_as(input_ids).to(input_ids.device)).argmax(dim=-1)
