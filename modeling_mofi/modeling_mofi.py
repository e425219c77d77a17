"""MOFI's model: an image and a text tower, projected into one space of entities."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mofi import MofiConfig
from .losses_mofi import contrastive_loss
from .pretrained_mofi import MofiPreTrainedModel
from .single_towers_mofi import MofiForImageClassification  # noqa: F401 - a checkpoint carries along what is imported.
from .towers_mofi import (
    build_projection,
    build_text_tower,
    build_vision_tower,
    encode_images,
    encode_texts,
    load_tower,
    unit_length,
)


@dataclass
class MofiOutput(ModelOutput):
    """Embeddings of a batch, and their similarities when both images and texts were given.

    Args:
        loss (`torch.Tensor` of shape `()`): Contrastive loss of the batch, with `return_loss=True`.
        logits_per_image (`torch.Tensor` of shape `(images, texts)`): Cosines times `logit_scale.exp()`, plus
            `logit_bias` if the model has one.
        logits_per_text (`torch.Tensor` of shape `(texts, images)`): Its transpose.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`): Unit-length text embeddings.
        image_embeds (`torch.Tensor` of shape `(images, projection_dim)`): Unit-length image embeddings.
        text_model_output: Output of the text tower, its `pooler_output` projected.
        vision_model_output: Output of the vision tower, its `pooler_output` projected.
        pooler_output (`torch.Tensor` of shape `(images, projection_dim)`): `image_embeds` where images came alone,
            under the name that the pipeline `image-feature-extraction` asks for with `pool=True`.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    pooler_output: torch.Tensor | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class MofiModel(MofiPreTrainedModel):
    """An image and a text tower. Parameter names equal `CLIPModel`'s, or without projections `SiglipModel`'s, whose
    checkpoints load unchanged.

    Source: MOFI (https://huggingface.co/papers/2306.07952).

    Example:

    ```python
    >>> import modeling_mofi
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("runs/sample/mofi")
    >>> processor = AutoProcessor.from_pretrained("runs/sample/mofi")
    >>> inputs = processor(images=image, text=["a flag", "a fruit"], return_tensors="pt")
    >>> image_embeds = model(**inputs).image_embeds  # [1, D], unit length
    ```
    """

    auto_map = MofiPreTrainedModel.auto_map | {
        "AutoModel": "modeling_mofi.MofiModel",
        "AutoModelForZeroShotImageClassification": "modeling_mofi.MofiModel",
    }

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.visual_projection = build_projection(config, config.vision_config)
        self.text_model = self.text_projection = None
        if config.has_text_tower:
            self.text_model = build_text_tower(config)
            self.text_projection = build_projection(config, config.text_config)
        self.set_contrast(config.contrast)
        self.post_init()

    def set_contrast(self, contrast: str) -> None:
        """Chooses `"softmax"` or `"sigmoid"`, with the scale (and bias) that new models begin with, in CLIP's shapes
        or SigLIP's."""
        self.config.contrast = contrast
        shape = () if contrast == "softmax" else (1,)
        self.logit_scale = nn.Parameter(torch.full(shape, float(self.config.logit_scale_init_value)))
        self.logit_bias = None
        if contrast == "sigmoid":
            self.logit_bias = nn.Parameter(torch.full(shape, float(self.config.logit_bias_init_value)))

    @classmethod
    def from_towers(
        cls,
        vision_model: str | PreTrainedModel,
        text_model: str | PreTrainedModel | None = None,
        *,
        dtype: Any = None,
        **fields: Any,
    ) -> "MofiModel":
        """Joins two trained encoders by new projections.

        Args:
            vision_model: Folder, Hub id or instance of an image encoder, or of a model with one.
            text_model: The same of a text encoder; None for a model of images alone.
            dtype: Of the loaded weights.
            fields: Of the `MofiConfig`, such as `projection_dim`.

        Example:

        ```python
        >>> model = MofiModel.from_towers("facebook/dinov3-vitb16-pretrain-lvd1689m", "FacebookAI/xlm-roberta-base")
        ```
        """
        if not isinstance(vision_model, PreTrainedModel):
            vision_model = load_tower(vision_model, part="vision_model", dtype=dtype)
        fields["vision_config"] = vision_model.config.to_dict()
        if isinstance(text_model, str):
            text_model = load_tower(text_model, part="text_model", dtype=dtype)
        if text_model is not None:
            fields["text_config"] = text_model.config.to_dict()
        model = cls(MofiConfig(**fields, has_text_tower=text_model is not None))
        model.vision_model.load_state_dict(vision_model.state_dict())
        if text_model is None:
            return model
        # A pooling layer that `text_pooling` leaves out is the text encoder's alone.
        unused = model.text_model.load_state_dict(text_model.state_dict(), strict=False).unexpected_keys
        assert all(name.startswith("pooler.") for name in unused)
        return model

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> tuple | BaseModelOutputWithPooling:
        """Encodes images; `pooler_output` is the projected feature `[B, D]`, not normalized.

        Args:
            pixel_values: Normalized images `[B, 3, H, W]`, from `MofiImageProcessor`.
            interpolate_pos_encoding: Allows an H and W other than the configuration's `image_size`.
        """
        outputs = encode_images(
            self.vision_model, pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
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
        """Encodes texts; `pooler_output` is the projected feature `[B, D]`, not normalized.

        Args:
            input_ids: Token ids `[B, L]`, padded on the right, each text ended by EOS.
            attention_mask: 1 for tokens, 0 for padding, `[B, L]`.

        Raises:
            ValueError: If the model has no text tower.
        """
        if self.text_model is None:
            raise ValueError("This model has no text tower (has_text_tower is false); give it images alone.")
        outputs = encode_texts(
            self.text_model, self.config, input_ids, attention_mask, position_ids=position_ids, **kwargs
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)  # [B, D]
        return outputs

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
            ValueError: If neither `input_ids` nor `pixel_values` is given, or not both with `return_loss`.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("MofiModel got neither input_ids nor pixel_values; give it texts, images or both.")
        if return_loss and (input_ids is None or pixel_values is None):
            raise ValueError("return_loss asks for the contrast of images and texts; give input_ids and pixel_values.")
        vision = text = image_embeds = text_embeds = logits_per_text = loss = None
        if pixel_values is not None:
            vision = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
            )
            image_embeds = unit_length(vision.pooler_output)
        if input_ids is not None:
            text = self.get_text_features(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
            )
            text_embeds = unit_length(text.pooler_output)
        if vision is not None and text is not None:
            logit_scale = self.logit_scale.exp().to(text_embeds.device)
            logit_bias = None if self.logit_bias is None else self.logit_bias.to(text_embeds.device)
            logits_per_text = text_embeds @ image_embeds.t().to(text_embeds.device) * logit_scale
            logits_per_text = logits_per_text if logit_bias is None else logits_per_text + logit_bias
            if return_loss:
                loss = contrastive_loss(
                    image_embeds.to(text_embeds.device), text_embeds, logit_scale=logit_scale, logit_bias=logit_bias
                )
        logits_per_image = None if logits_per_text is None else logits_per_text.t()
        pooled = image_embeds if text is None else None
        return MofiOutput(loss, logits_per_image, logits_per_text, text_embeds, image_embeds, text, vision, pooled)
