"""What MOFI's models share: initial weights, safe loading, saving with source files, publishing."""

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_mofi import MofiConfig


PACKAGE = "modeling_mofi"


class MofiPreTrainedModel(PreTrainedModel):
    """Weight initialization, loading and saving shared by MOFI's models."""

    config_class = MofiConfig
    # What a checkpoint answers to besides the class that saved it.
    auto_map = {"AutoModelForImageClassification": "single_towers_mofi.MofiForImageClassification"}
    base_model_prefix = "mofi"
    input_modalities = ("image", "text")
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]
    # Buffers that old CLIP checkpoints stored.
    _keys_to_ignore_on_load_unexpected = [r"\.position_ids$"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The towers initialize themselves, each in its own way.
        super()._init_weights(module)
        if not isinstance(module, MofiPreTrainedModel):
            return
        for name in ("visual_projection", "text_projection", "classifier"):
            layer = getattr(module, name, None)
            # Without a projection there is no weight, and quantization may have replaced it.
            if getattr(layer, "weight", None) is not None:
                init.normal_(layer.weight, std=layer.in_features**-0.5 * self.config.initializer_factor)
        if isinstance(getattr(module, "logit_scale", None), nn.Parameter):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        if isinstance(getattr(module, "logit_bias", None), nn.Parameter):
            init.constant_(module.logit_bias, self.config.logit_bias_init_value)

    @property
    def input_tower(self) -> PreTrainedModel:
        """The tower whose input embeddings are the model's: the text tower, if there is one."""
        return self.vision_model if getattr(self, "text_model", None) is None else self.text_model

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads a model's input: token embeddings, or patches where there is no text tower."""
        return self.input_tower.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the layer that `get_input_embeddings` returns."""
        self.input_tower.set_input_embeddings(value)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> "MofiPreTrainedModel":
        """Loads safetensors only, unless `use_safetensors=False` is given: pickled weights can run any code.

        Raises:
            ValueError: If a local folder has pickled weights and no safetensors, or a damaged file.
        """
        kwargs.setdefault("use_safetensors", True)
        folder = Path(pretrained_model_name_or_path or "")
        if kwargs["use_safetensors"] and folder.is_dir() and kwargs.get("state_dict") is None:
            reject_pickles(folder)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"A .safetensors file of {pretrained_model_name_or_path} is damaged or incomplete ({error}). Copy or "
                "download it again."
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves weights and configuration, and with them the source files that load them without this package."""
        if self._auto_class is not None:
            found = getattr(self.config, "auto_map", None) or {}
            # Those of other models may name files that this one does not carry along.
            kept = {name: path for name, path in found.items() if not name.startswith("AutoModel")}
            self.config.auto_map = kept | self.auto_map
        super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publishes weights, source files, a filled model card, and the processor beside the weights it came from.

        Without this package, as in a process that has only a checkpoint's source files, it is transformers' own.
        """
        try:
            publishing = importlib.import_module(f"{PACKAGE}.hub.publishing")
        except ModuleNotFoundError:
            return super().push_to_hub(repo_id, **kwargs)
        return publishing.publish_model(self, repo_id, **kwargs)


def reject_pickles(folder: Path) -> None:
    """Raises ValueError if a folder has pickled weights and no safetensors."""
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles and not any(folder.rglob("*.safetensors")):
        raise ValueError(
            f"{folder} has only pickled weights ({', '.join(pickles)}), which are not opened by default. Take "
            "a copy in safetensors, or pass use_safetensors=False if you trust the file's origin."
        )
