"""One tower alone, with its projection or without, and the image tower as a classifier."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.clip.modeling_clip import CLIPTextModelOutput, CLIPVisionModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mofi import MofiConfig
from .pretrained_mofi import MofiPreTrainedModel
from .towers_mofi import (
    build_projection,
    build_text_tower,
    build_vision_tower,
    encode_images,
    encode_texts,
    pooled_size,
    unit_length,
)


TEXT_KEYS = (r"^text_model\.", r"^text_projection\.")
VISION_KEYS = (r"^vision_model\.", r"^visual_projection\.")
OTHER_KEYS = (r"\.position_ids$", r"^logit_(scale|bias)$")  # Unused by a tower alone; old CLIP checkpoints have ids.


class MofiVisionModel(MofiPreTrainedModel):
    """The vision tower alone, without projection; takes its weights from any MOFI, CLIP or SigLIP checkpoint."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = [
        r"\.position_ids$",
        r"^logit_(scale|bias)$",
        r"^visual_projection\.",
        *TEXT_KEYS,
    ]

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple | BaseModelOutputWithPooling:
        """Encodes images `[B, 3, H, W]`; `pooler_output` is the state of the class token `[B, H]`."""
        return encode_images(self.vision_model, pixel_values, **kwargs)


class MofiTextModel(MofiPreTrainedModel):
    """The text tower alone, without projection; takes its weights from any MOFI, CLIP or SigLIP checkpoint."""

    main_input_name = "input_ids"
    input_modalities = ("text",)
    _keys_to_ignore_on_load_unexpected = [
        r"\.position_ids$",
        r"^logit_(scale|bias)$",
        r"^text_projection\.",
        *VISION_KEYS,
    ]

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.text_model = build_text_tower(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple | BaseModelOutputWithPooling:
        """Encodes texts `[B, L]`; `pooler_output` is the state that `text_pooling` names `[B, H]`."""
        return encode_texts(self.text_model, self.config, input_ids, attention_mask, **kwargs)


class MofiVisionModelWithProjection(MofiPreTrainedModel):
    """Images to unit-length `image_embeds`, those of `MofiModel`, without loading a text tower."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = [*OTHER_KEYS, *TEXT_KEYS]

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.visual_projection = build_projection(config, config.vision_config)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple | CLIPVisionModelOutput:
        """Embeds images `[B, 3, H, W]` as `image_embeds` `[B, D]`."""
        outputs = encode_images(self.vision_model, pixel_values, **kwargs)
        embeds = unit_length(self.visual_projection(outputs.pooler_output))
        return CLIPVisionModelOutput(
            embeds, outputs.last_hidden_state, outputs.get("hidden_states"), outputs.get("attentions")
        )


class MofiTextModelWithProjection(MofiPreTrainedModel):
    """Texts to unit-length `text_embeds`, those of `MofiModel`, without loading a vision tower."""

    main_input_name = "input_ids"
    input_modalities = ("text",)
    _keys_to_ignore_on_load_unexpected = [*OTHER_KEYS, *VISION_KEYS]

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.text_model = build_text_tower(config)
        self.text_projection = build_projection(config, config.text_config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple | CLIPTextModelOutput:
        """Embeds texts `[B, L]` as `text_embeds` `[B, D]`."""
        outputs = encode_texts(self.text_model, self.config, input_ids, attention_mask, **kwargs)
        embeds = unit_length(self.text_projection(outputs.pooler_output))
        return CLIPTextModelOutput(
            embeds, outputs.last_hidden_state, outputs.get("hidden_states"), outputs.get("attentions")
        )


class MofiForImageClassification(MofiPreTrainedModel):
    """The vision tower with a new linear layer of `config.num_labels` classes, for fine-tuning on labeled images."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = [
        r"\.position_ids$",
        r"^logit_(scale|bias)$",
        r"^visual_projection\.",
        *TEXT_KEYS,
    ]

    def __init__(self, config: MofiConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = build_vision_tower(config)
        self.classifier = nn.Linear(pooled_size(config.vision_config), config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple | ImageClassifierOutput:
        """Classifies images `[B, 3, H, W]` by the class token, the one MOFI trains; `labels` `[B]` add a loss."""
        outputs = encode_images(self.vision_model, pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)  # [B, num_labels]
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss, logits, outputs.get("hidden_states"), outputs.get("attentions"))
