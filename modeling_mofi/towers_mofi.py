"""The two towers: encoders of transformers that pool their states, and what each of them can do.

Any image encoder with a `pooler_output` will do, and any text encoder with token states.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, SiglipTextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_mofi import STEM_GROUPS, MofiConfig


# Image towers that take other sizes if `interpolate_pos_encoding` is passed, and those that take any without it.
INTERPOLATING = ("clip_vision_model", "siglip_vision_model", "vit")
CONVOLUTIONAL = ("convnext", "convnextv2", "dinov3_convnext")
OF_ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "mlcd_vision_model", *CONVOLUTIONAL)


def build_vision_tower(config: MofiConfig) -> PreTrainedModel:
    """Makes the image tower; with `config.stem_channels`, CLIP's patches are embedded by a `MofiConvStem`."""
    # Convolutions have no attention to choose an implementation of.
    options = {"attn_implementation": "eager"} if config.vision_config.model_type in CONVOLUTIONAL else {}
    tower = AutoModel.from_config(config.vision_config, **options)
    if config.stem_channels:
        embeddings = getattr(tower, "vision_model", tower).embeddings
        embeddings.patch_embedding = MofiConvStem(config)
    return tower


def build_text_tower(config: MofiConfig) -> PreTrainedModel:
    """Makes the text tower, without its own pooling layer if `text_pooling` does not use it."""
    if config.text_config.model_type == "siglip_text_model":  # AutoModel knows the whole SigLIP alone.
        return SiglipTextModel(config.text_config)
    tower = AutoModel.from_config(config.text_config)
    if config.text_pooling != "pooler" and hasattr(tower, "pooler"):
        tower.pooler = None
    return tower


def load_tower(name: str, *, part: str, **kwargs: Any) -> PreTrainedModel:
    """Loads a tower from a checkpoint of its own, or from that of a whole model.

    Args:
        name: Folder or Hub id.
        part: `"vision_model"` or `"text_model"`.
        kwargs: As for `AutoModel.from_pretrained`.
    """
    model = AutoModel.from_pretrained(name, **kwargs)
    return getattr(model, part) if isinstance(getattr(model, part, None), PreTrainedModel) else model


def build_projection(config: MofiConfig, tower_config: PreTrainedConfig) -> nn.Module:
    """Makes the linear layer from a tower's feature to an embedding, or the identity.

    Raises:
        ValueError: If there is no projection and the feature does not have the embedding's size.
    """
    size = pooled_size(tower_config)
    if config.has_projections:
        return nn.Linear(size, config.projection_dim, bias=False)
    if size != config.projection_dim:
        raise ValueError(
            f"has_projections is false, but the tower of type {tower_config.model_type!r} gives features of size "
            f"{size} and projection_dim is {config.projection_dim}. Set it to that size, or has_projections to true."
        )
    return nn.Identity()


def pooled_size(config: PreTrainedConfig) -> int:
    """Size of the feature that a tower of this configuration gives."""
    if config.model_type == "siglip_text_model":
        return config.projection_size
    return config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size


def check_image_sizes(config: PreTrainedConfig) -> None:
    """Raises ValueError if an image tower takes images of its configuration's size only."""
    if config.model_type not in (*INTERPOLATING, *OF_ANY_SIZE):
        raise ValueError(
            f"An image tower of type {config.model_type!r} takes images of {config.image_size} pixels only. Leave out "
            "image_size_schedule and interpolate_pos_encoding."
        )


def encode_images(
    vision_model: PreTrainedModel, pixel_values: torch.Tensor, *, interpolate_pos_encoding: bool = False, **kwargs: Any
) -> BaseModelOutputWithPooling:
    """Runs the image tower on `[B, 3, H, W]`.

    Raises:
        ValueError: If it gives no `pooler_output`, or cannot take images of another size.
    """
    config = vision_model.config
    if interpolate_pos_encoding:
        check_image_sizes(config)
    if config.model_type in INTERPOLATING:
        kwargs["interpolate_pos_encoding"] = interpolate_pos_encoding
    outputs = vision_model(pixel_values=pixel_values, **{**kwargs, "return_dict": True})
    if outputs.get("pooler_output") is None:
        raise ValueError(
            f"The image tower of type {config.model_type!r} gives no pooler_output. Take one that does, such as "
            "SigLIP, DINOv2 or v3, AIMv2, MLCD, ViT, ConvNeXt V2 or CLIP."
        )
    return outputs


def encode_texts(
    text_model: PreTrainedModel,
    config: MofiConfig,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    """Runs the text tower on `[B, L]` and pools as the configuration says."""
    input_ids = input_ids.view(-1, input_ids.shape[-1])
    if config.text_config.model_type == "siglip_text_model":
        # SigLIP was trained on texts padded to the full context, which attend to the padding and are pooled there.
        missing = config.text_config.max_position_embeddings - input_ids.shape[-1]
        input_ids, attention_mask = F.pad(input_ids, (0, missing), value=config.text_config.pad_token_id), None
    if kwargs.get("position_ids") is None:
        kwargs.pop("position_ids", None)
    outputs = text_model(input_ids=input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True})
    if config.text_pooling != "pooler":
        # CLIPTextModel pools at the highest id whenever eos_token_id is 2, which is wrong where EOS really has id 2.
        pooled = pool_text(outputs.last_hidden_state, config, input_ids, attention_mask)
        if not hasattr(outputs, "pooler_output"):
            outputs = BaseModelOutputWithPooling(**outputs)
        outputs.pooler_output = pooled
    return outputs


def pool_text(
    hidden_states: torch.Tensor, config: MofiConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Makes one feature of each text's states as `text_pooling` says: `[B, L, H]` to `[B, H]`."""
    input_ids = input_ids.to(hidden_states.device)
    if config.text_pooling == "mean":
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
        mask = mask[..., None].to(hidden_states.dtype)  # [B, L, 1]
        return (hidden_states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    if config.text_pooling == "first":
        return hidden_states[:, 0]
    if config.text_pooling == "argmax":
        positions = input_ids.to(torch.int).argmax(dim=-1)
    else:
        is_eos = input_ids == config.text_config.eos_token_id
        if config.text_config.bos_token_id == config.text_config.eos_token_id:
            is_eos = is_eos & (torch.arange(input_ids.shape[1], device=input_ids.device) > 0)
        positions = torch.where(
            is_eos.any(dim=-1), is_eos.int().argmax(dim=-1), last_attended(input_ids, attention_mask)
        )
    # Not `len`, which torch.export would take for a constant.
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), positions]


def last_attended(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Position of each text's last attended token, `[B]`."""
    if attention_mask is None:
        return torch.full(input_ids.shape[:1], input_ids.shape[1] - 1, device=input_ids.device)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (positions * attention_mask.view_as(input_ids).to(input_ids.device)).argmax(dim=-1)


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Scales each row of `[B, D]` to length 1."""
    # Not `Tensor.norm`: sum and power export everywhere, as in CLIP.
    return features / features.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


class MofiConvStem(nn.Conv2d):
    """Patch embedding behind 3 x 3 convolutions of stride 2, each with group normalization and GELU.

    The last convolution is this module itself, so that it has the `weight` that CLIP's code asks of a patch
    embedding. With few images a transformer learns more behind convolutions than behind one linear layer per patch.

    Source: Early Convolutions Help Transformers See Better (https://huggingface.co/papers/2106.14881); batch
    normalization there, group normalization here, which no other image of the batch touches.

    Args:
        config: Its `stem_channels` are the channels of the convolutions; each halves height and width.
    """

    def __init__(self, config: MofiConfig):
        vision, channels = config.vision_config, config.stem_channels
        patch_size = vision.patch_size // 2 ** len(channels)
        super().__init__(channels[-1], vision.hidden_size, kernel_size=patch_size, stride=patch_size, bias=False)
        widths = zip([vision.num_channels, *channels], channels, strict=False)
        self.convolutions = nn.Sequential(*(half_size(*pair) for pair in widths))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeds images `[B, 3, H, W]` as a grid of patches `[B, hidden_size, H / patch_size, W / patch_size]`."""
        return super().forward(self.convolutions(pixel_values))


def half_size(in_channels: int, out_channels: int) -> nn.Sequential:
    """One convolution of the stem, `[B, in_channels, H, W]` to `[B, out_channels, H / 2, W / 2]`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.GroupNorm(STEM_GROUPS, out_channels),
        nn.GELU(),
    )
