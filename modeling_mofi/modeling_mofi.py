"""MOFI's model: a CLIP vision tower and a CLIP text tower, projected into one space of entities."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mofi import MofiConfig
from .losses_mofi import contrastive_loss


@dataclass
class MofiOutput(ModelOutput):
    """Embeddings of a batch, and their similarities when both images and texts were given.

    Args:
        loss (`torch.Tensor` of shape `()`): Contrastive loss of the batch, with `return_loss=True`.
        logits_per_image (`torch.Tensor` of shape `(images, texts)`): Cosines times `logit_scale.exp()`.
        logits_per_text (`torch.Tensor` of shape `(texts, images)`): Its transpose.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`): Unit-length text embeddings.
        image_embeds (`torch.Tensor` of shape `(images, projection_dim)`): Unit-length image embeddings.
        text_model_output: Output of the text tower, its `pooler_output` projected.
        vision_model_output: Output of the vision tower, its `pooler_output` projected.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class MofiPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading shared by MOFI's models."""

    config_class = MofiConfig
    base_model_prefix = "mofi"
    input_modalities = ("image", "text")
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The towers initialise themselves, as CLIP models do.
        super()._init_weights(module)
        if isinstance(module, MofiModel):
            factor = self.config.initializer_factor
            init.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5 * factor)
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5 * factor)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class MofiModel(MofiPreTrainedModel):
    """Two towers whose parameter names equal `CLIPModel`'s, so any CLIP checkpoint loads unchanged.

    Source: MOFI (https://huggingface.co/papers/2306.07952).

    Example:

    ```python
    >>> import modeling_mofi
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("runs/sample/mofi")
    >>> processor = AutoProcessor.from_pretrained("runs/sample/mofi")
    >>> inputs = processor(images=image, text=["a flag", "a fruit"], return_tensors="pt")
    >>> model(**inputs).image_embeds.shape
    torch.Size([1, 128])
    ```
    """

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> tuple | BaseModelOutputWithPooling:
        """Encodes images; `pooler_output` is the projected feature `[B, D]`, not normalised.

        Args:
            pixel_values: Normalised images `[B, 3, H, W]`, from `MofiImageProcessor`.
            interpolate_pos_encoding: Allows an H and W other than the configuration's `image_size`.
        """
        outputs = self.vision_model(
            pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)  # [B, D]
        return outputs

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | BaseModelOutputWithPooling:
        """Encodes texts; `pooler_output` is the projected feature `[B, D]`, not normalised.

        Args:
            input_ids: Token ids `[B, L]`, padded on the right, each text ended by EOS.
            attention_mask: 1 for tokens, 0 for padding, `[B, L]`.
        """
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        pooled = self._pool_text(outputs.last_hidden_state, input_ids, attention_mask)
        outputs.pooler_output = self.text_projection(pooled)  # [B, D]
        return outputs

    def _pool_text(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Takes each text's state at the position that `text_pooling` names: `[B, L, H]` to `[B, H]`."""
        # CLIPTextModel pools at the highest id whenever eos_token_id is 2, which is wrong where EOS really has id 2.
        input_ids = input_ids.view(-1, input_ids.shape[-1]).to(hidden_states.device)
        if self.config.text_pooling == "argmax":
            positions = input_ids.to(torch.int).argmax(dim=-1)
        else:
            is_eos = input_ids == self.config.text_config.eos_token_id
            positions = torch.where(
                is_eos.any(dim=-1), is_eos.int().argmax(dim=-1), last_attended(input_ids, attention_mask)
            )
        return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), positions]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> tuple | MofiOutput:
        """Embeds images, texts or both.

        Args:
            input_ids: Token ids `[texts, L]`, or None.
            pixel_values: Images `[images, 3, H, W]`, or None.
            return_loss: Whether to add the contrastive loss; needs as many images as texts.

        Raises:
            ValueError: If neither `input_ids` nor `pixel_values` is given.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("MofiModel got neither input_ids nor pixel_values; give it texts, images or both.")
        output = MofiOutput()
        if pixel_values is not None:
            output.vision_model_output = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
            )
            output.image_embeds = unit_length(output.vision_model_output.pooler_output)
        if input_ids is not None:
            output.text_model_output = self.get_text_features(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
            )
            output.text_embeds = unit_length(output.text_model_output.pooler_output)
        if pixel_values is not None and input_ids is not None:
            image_embeds = output.image_embeds.to(output.text_embeds.device)
            logit_scale = self.logit_scale.exp().to(output.text_embeds.device)
            output.logits_per_text = output.text_embeds @ image_embeds.t() * logit_scale
            output.logits_per_image = output.logits_per_text.t()
            if return_loss:
                output.loss = contrastive_loss(image_embeds, output.text_embeds, logit_scale=logit_scale)
        return output


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Scales each row of `[B, D]` to length 1."""
    # Not `Tensor.norm`: sum and power export everywhere, as in CLIP.
    return features / features.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


def last_attended(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Position of each text's last attended token, `[B]`."""
    if attention_mask is None:
        return torch.full(input_ids.shape[:1], input_ids.shape[1] - 1, device=input_ids.device)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (positions * attention_mask.view_as(input_ids).to(input_ids.device)).argmax(dim=-1)
