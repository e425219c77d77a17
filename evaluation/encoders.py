"""Loads image encoders by name or path: MOFI, CLIP, SigLIP, DINOv2, timm, and raw pixels as the floor."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol, get_args

import torch
from PIL import Image, ImageOps
from transformers import PreTrainedModel

from modeling_mofi import MofiImageProcessor  # Registers MOFI with the Auto classes too.
from modeling_mofi.search.encoder import Inputs, has_text_tower, image_features, moved, prepare_image, text_features
from modeling_mofi.search.model_loading import (
    default_dtype,
    fingerprint_model,
    load_image_processor,
    load_model,
    load_processor,
)


Preprocessing = Literal["model", "release"]
Pooling = Literal["auto", "cls", "mean"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
CHOICES = {"preprocessing": get_args(Preprocessing), "pooling": get_args(Pooling), "dtype": get_args(Precision)}


class UnfitModelError(ValueError):
    """A model lacks what a task needs; it is left out of this task."""


class Encoder(Protocol):
    """What the tasks need of a model: prepared images in, one row of features per image out."""

    name: str
    key: dict[str, Any]  # All that decides the features of an image; the cache is keyed by it.
    device: torch.device
    prepare: Callable[[Image.Image], Inputs]  # RGB image to what `embed_images` takes of it; without the model.
    has_text_tower: bool

    def embed_images(self, inputs: Inputs) -> torch.Tensor:
        """fp32 features of a batch of prepared images, shape (B, D), not normalized."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """fp32 features of shape (B, D), not normalized; UnfitModelError without a text tower."""


def load_encoder(
    model: str,
    *,
    preprocessing: Preprocessing = "model",
    pooling: Pooling = "auto",
    dtype: Precision = "auto",
    device: str = "auto",
) -> Encoder:
    """Loads an encoder.

    Args:
        model: `pixels`, a folder or `id[@revision]` on the Hub (timm models by their `timm/...` ids).
        preprocessing: `model` for the model's own processor, `release` for the transform of Apple's release.
        pooling: For models without a projection: `auto` (the model's pooled output, else its first token), `cls`,
            `mean` (over all tokens).
        dtype: `auto` is float32 on a CPU, and bfloat16 on a GPU that has it.

    Raises:
        OSError: If there is no such model.
        ValueError: If a setting is unknown, the model has no weights in safetensors, or no image processor.
    """
    check_settings(preprocessing=preprocessing, pooling=pooling, dtype=dtype)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if model == "pixels":
        return PixelEncoder(device=device)
    chosen = default_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    loaded = load_model(model, dtype=chosen, device=device)
    processor = load_image_processor(model) if preprocessing == "model" else release_processor(model, loaded)
    key = {
        "weights": fingerprint_model(model),
        "preprocessing": processor.to_dict(),
        "pooling": pooling,
        "dtype": str(chosen).removeprefix("torch."),
    }
    return TransformersEncoder(model, loaded, partial(prepare_image, image_processor=processor), key, pooling)


def check_settings(**settings: str) -> None:
    """Refuses an unknown setting before a model is loaded."""
    for name, value in settings.items():
        if value not in CHOICES[name]:
            *others, last = map(repr, CHOICES[name])
            raise ValueError(f"{name} is {value!r}; it must be {', '.join(others)} or {last}.")


def release_processor(model: str, loaded: PreTrainedModel) -> MofiImageProcessor:
    """The transform of Apple's release at the image size of a model."""
    size = getattr(getattr(loaded.config, "vision_config", loaded.config), "image_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{model} does not say at which image size it works; use --preprocessing model.")
    return MofiImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


@dataclass
class TransformersEncoder:
    """A model of transformers; its processor is loaded when it first embeds texts."""

    name: str
    model: PreTrainedModel
    prepare: Callable[[Image.Image], Inputs]
    key: dict[str, Any]
    pooling: Pooling = "auto"

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_text_tower(self) -> bool:
        return has_text_tower(self.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model's processor."""
        processor = load_processor(self.name)
        return getattr(processor, "tokenizer", processor)

    @torch.inference_mode()
    def embed_images(self, inputs: Inputs) -> torch.Tensor:
        if hasattr(self.model, "get_image_features"):
            return image_features(self.model, inputs)
        return pooled(self.model(**moved(inputs, self.model)), self.pooling).float()

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        if not self.has_text_tower:
            raise UnfitModelError(f"{self.name} has no text tower.")
        return text_features(self.model, self.tokenizer, texts)


def pooled(output: Any, pooling: Pooling) -> torch.Tensor:
    """One row per image, shape (B, D), out of the output of a model without a projection."""
    if pooling == "auto" and getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    tokens = output.last_hidden_state  # [B, T, D], or [B, D, H, W] of a convolutional model
    if tokens.ndim == 4:
        return tokens.mean(dim=(2, 3))
    return tokens.mean(dim=1) if pooling == "mean" else tokens[:, 0]


@dataclass
class PixelEncoder:
    """The floor: the image on a black square, shrunk to 16 x 16 RGB pixels."""

    device: torch.device
    name: str = "pixels"
    size: int = 16

    @property
    def key(self) -> dict[str, Any]:
        return {"weights": "pixels", "size": self.size}

    @property
    def has_text_tower(self) -> bool:
        return False

    def prepare(self, image: Image.Image) -> Inputs:
        side = max(image.size)
        square = ImageOps.pad(image, (side, side), color="black").resize((self.size,) * 2, Image.Resampling.BILINEAR)
        return {"pixel_values": torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)}

    def embed_images(self, inputs: Inputs) -> torch.Tensor:
        return inputs["pixel_values"].to(self.device).float() / 255

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        raise UnfitModelError("pixels has no text tower.")
