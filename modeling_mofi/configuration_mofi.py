"""Configuration of MOFI: two tower configurations and what joins them."""

from typing import Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


TEXT_POOLINGS = ("eos_first", "argmax")
STEM_GROUPS = 8  # Groups of channels that the stem normalises together.


class MofiConfig(PreTrainedConfig):
    r"""Architecture of a MOFI model; what belongs to the training recipe is in `MofiTrainingArguments`.

    Args:
        vision_config: Fields of `CLIPVisionConfig`, or an instance.
        text_config: Fields of `CLIPTextConfig`, or an instance.
        projection_dim: Size D of the shared embedding space.
        logit_scale_init_value: Initial log of the inverse temperature; 2.6592 is ln(1 / 0.07), as in CLIP.
        initializer_factor: Factor on the standard deviation of all initial weights.
        text_pooling: Which token's state is the text's feature. `"eos_first"` takes the first EOS, or the last
            attended token of a text without one; where BOS and EOS are one id, the first token is no EOS.
            `"argmax"` takes the highest token id, as CLIP does for checkpoints whose `eos_token_id` is 2; such CLIP
            configurations get it when they are loaded.
        num_entities: Classes of the entity head, 0 for a model without one. It is not `num_labels`: two million
            label names would make config.json 120 MB.
        stem_channels: Channels of the 3 x 3 convolutions of stride 2 that come before the patch embedding, multiples
            of 8, at most as many as the patch size can be halved; none, the default, for CLIP's own embedding.

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
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig),
        "text_config": SubConfigSpec(config_class=CLIPTextConfig),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0
    text_pooling: str = "eos_first"
    num_entities: int = 0
    entities_sha256: str | None = None
    stem_channels: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Several models are registered for this configuration; None would keep AutoModel from choosing among them.
        self.architectures = self.architectures or []
        if self.text_pooling not in TEXT_POOLINGS:
            raise ValueError(f"text_pooling is {self.text_pooling!r}; it must be one of {', '.join(TEXT_POOLINGS)}.")
        if self.text_pooling == "eos_first" and not isinstance(self.text_config.eos_token_id, int):
            raise ValueError(
                f"text_config.eos_token_id is {self.text_config.eos_token_id!r}; text_pooling 'eos_first' needs "
                "the id of the token that ends a text."
            )
        if self.num_entities < 0:
            raise ValueError(f"num_entities is {self.num_entities}; it must be 0 (no entity head) or more.")
        self.check_stem()

    def check_stem(self) -> None:
        """Raises ValueError if the stem's channels don't fit its normalisation or the patch size."""
        channels, patch_size = self.stem_channels or [], self.vision_config.patch_size
        if any(width < 1 or width % STEM_GROUPS for width in channels):
            raise ValueError(f"stem_channels is {channels}; each must be a positive multiple of {STEM_GROUPS}.")
        if patch_size % 2 ** len(channels):
            raise ValueError(
                f"stem_channels has {len(channels)} convolutions that each halve the image; patch_size {patch_size} "
                f"must be a multiple of {2 ** len(channels)}. Take fewer convolutions or larger patches."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "MofiConfig":
        """Builds the configuration from a MOFI or a CLIP config.json; a CLIP text tower keeps CLIP's pooling.

        Raises:
            ValueError: If the config.json is another model's.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in (cls.model_type, "clip"):
            raise ValueError(
                f"The config.json is of a {model_type!r} model; MOFI loads those of model_type 'mofi' or 'clip'. "
                "Load this one with transformers' AutoModel."
            )
        if model_type == "clip":
            clip_config = CLIPConfig(**config_dict)
            config_dict = {**clip_config.to_dict(), "text_pooling": clip_text_pooling(clip_config)}
            for key in ("model_type", "architectures", "auto_map"):
                config_dict.pop(key, None)
        return super().from_dict(config_dict, **kwargs)


def clip_text_pooling(clip_config: CLIPConfig) -> str:
    """Names the pooling that `CLIPModel` applies to this configuration."""
    return "argmax" if clip_config.text_config.eos_token_id == 2 else "eos_first"
