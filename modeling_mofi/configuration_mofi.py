"""Configuration of MOFI: two tower configurations and what joins them."""

from typing import Any

from transformers import AutoConfig, CLIPConfig, PreTrainedConfig, SiglipConfig
from transformers.configuration_utils import SubConfigSpec


TEXT_POOLINGS = ("eos_first", "argmax", "first", "mean", "pooler")
CONTRASTS = ("softmax", "sigmoid")
STEM_GROUPS = 8  # Groups of channels that the stem normalizes together.


class MofiConfig(PreTrainedConfig):
    r"""Architecture of a MOFI model; what belongs to the training recipe is in `MofiTrainingArguments`.

    Attributes:
        vision_config: Configuration of an image encoder that has a `pooler_output`, or its fields with `model_type`
            (CLIP's without): CLIP, SigLIP, DINOv2 and v3, ViT, AIMv2, MLCD, ConvNeXt V2 and others.
        text_config: Configuration of a text encoder, or its fields with `model_type` (CLIP's without): CLIP, SigLIP,
            BERT, XLM-R, ModernBERT and others.
        has_text_tower: False for a model of images alone, whatever `text_config` says.
        projection_dim: Size D of the shared embedding space.
        has_projections: False for towers whose features are the embeddings themselves, such as SigLIP's.
        contrast: How images and texts are compared, by `"softmax"` as in CLIP or by `"sigmoid"` as in SigLIP; with
            the latter the model has a `logit_bias`.
        logit_scale_init_value: Initial log of the inverse temperature; 2.6592 is ln(1 / 0.07), as in CLIP.
        logit_bias_init_value: Initial `logit_bias`; -10 as in SigLIP.
        initializer_factor: Factor on the standard deviation of all initial weights.
        text_pooling: What is the text's feature. `"eos_first"`, the default for CLIP's tower, takes the state of the
            first EOS, or of the last attended token of a text without one; where BOS and EOS are one id, the first
            token is no EOS. `"argmax"` takes that of the highest token id, as CLIP does for checkpoints whose
            `eos_token_id` is 2; such CLIP configurations get it when they are loaded. `"pooler"`, the default for
            SigLIP's tower, is the tower's own pooling; `"first"` the first token's state; `"mean"`, the default for
            other towers, the mean over attended tokens.
        num_entities: Classes of the entity head, 0 for a model without one. It is not `num_labels`: two million
            label names would make config.json 120 MB.
        stem_channels: Channels of the 3 x 3 convolutions of stride 2 that come before the patch embedding, multiples
            of 8, at most as many as the patch size can be halved; none, the default, for the tower's own embedding.
            CLIP's tower alone can have them.

    Example:

    ```python
    >>> import modeling_mofi
    >>> config = modeling_mofi.MofiConfig(vision_config={"patch_size": 16}, projection_dim=256)
    >>> config.text_config.hidden_size
    512
    ```
    """

    model_type = "mofi"
    # transformers 5.20 takes no bare classes here.
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_text_model"),
    }

    # Given as fields or as a configuration; once made, always a configuration, of a class that AutoConfig chooses.
    vision_config: Any = None
    text_config: Any = None
    has_text_tower: bool = True
    projection_dim: int = 512
    has_projections: bool = True
    contrast: str = "softmax"
    logit_scale_init_value: float = 2.6592
    logit_bias_init_value: float = -10.0
    initializer_factor: float = 1.0
    text_pooling: str | None = None
    num_entities: int = 0
    entities_sha256: str | None = None
    stem_channels: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Several models are registered for this configuration; None would keep AutoModel from choosing among them.
        self.architectures = self.architectures or []
        if self.text_pooling is None:
            self.text_pooling = DEFAULT_POOLINGS.get(self.text_config.model_type, "mean")
        self.check_choices()
        self.check_stem()

    def check_choices(self) -> None:
        """Raises ValueError if a field has a value that it cannot have."""
        if self.text_pooling not in TEXT_POOLINGS:
            raise ValueError(f"text_pooling is {self.text_pooling!r}; it must be one of {', '.join(TEXT_POOLINGS)}.")
        if self.contrast not in CONTRASTS:
            raise ValueError(f"contrast is {self.contrast!r}; it must be one of {', '.join(CONTRASTS)}.")
        if self.text_pooling == "eos_first" and not isinstance(self.text_config.eos_token_id, int):
            raise ValueError(
                f"text_config.eos_token_id is {self.text_config.eos_token_id!r}; text_pooling 'eos_first' needs "
                "the id of the token that ends a text."
            )
        if self.num_entities < 0:
            raise ValueError(f"num_entities is {self.num_entities}; it must be 0 (no entity head) or more.")

    def check_stem(self) -> None:
        """Raises ValueError if the stem's channels don't fit its normalization, the patch size or the tower."""
        channels = self.stem_channels or []
        if not channels:
            return
        if self.vision_config.model_type != "clip_vision_model":
            raise ValueError(
                f"stem_channels is {channels}, but an image tower of type {self.vision_config.model_type!r} cannot "
                "have a stem; CLIP's alone can. Leave stem_channels out."
            )
        patch_size = self.vision_config.patch_size
        if any(width < 1 or width % STEM_GROUPS for width in channels):
            raise ValueError(f"stem_channels is {channels}; each must be a positive multiple of {STEM_GROUPS}.")
        if patch_size % 2 ** len(channels):
            raise ValueError(
                f"stem_channels has {len(channels)} convolutions that each halve the image; patch_size {patch_size} "
                f"must be a multiple of {2 ** len(channels)}. Take fewer convolutions or larger patches."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "MofiConfig":
        """Builds the configuration from a MOFI, CLIP or SigLIP config.json; text towers keep their own pooling.

        Raises:
            ValueError: If the config.json is another model's.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in (cls.model_type, *WHOLE_MODELS):
            raise ValueError(
                f"The config.json is of a {model_type!r} model; MOFI loads those of model_type 'mofi', 'clip' or "
                "'siglip'. An image or text encoder alone becomes one of two towers: see MofiModel.from_towers."
            )
        if model_type in WHOLE_MODELS:
            config_dict = WHOLE_MODELS[model_type](config_dict)
            for key in ("model_type", "architectures", "auto_map"):
                config_dict.pop(key, None)
        return super().from_dict(config_dict, **kwargs)


def from_clip(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Fields of the `MofiConfig` that stands for a CLIP model."""
    config = CLIPConfig(**config_dict)
    return {**config.to_dict(), "text_pooling": clip_text_pooling(config)}


def from_siglip(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Fields of the `MofiConfig` that stands for a SigLIP model, or for SigLIP 2 at a fixed resolution."""
    config = SiglipConfig(**config_dict)
    size = config.vision_config.hidden_size
    return {**config.to_dict(), "projection_dim": size, "has_projections": False, "contrast": "sigmoid"}


def clip_text_pooling(clip_config: CLIPConfig) -> str:
    """Names the pooling that `CLIPModel` applies to this configuration."""
    return "argmax" if clip_config.text_config.eos_token_id == 2 else "eos_first"


WHOLE_MODELS = {"clip": from_clip, "siglip": from_siglip}
DEFAULT_POOLINGS = {"clip_text_model": "eos_first", "siglip_text_model": "pooler"}
