"""Loads image encoders by name or path: MOFI, CLIP, SigLIP, DINOv2, timm, and raw pixels as the floor."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer

import modeling_mofi  # Registers MOFI with the Auto classes.
from modeling_mofi.search.encoder import text_options


SETTINGS = {
    "preprocessing": ("model", "release"),
    "pooling": ("auto", "cls", "mean"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
}
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt")


class UnfitModelError(ValueError):
    """A model lacks what a task needs; it is left out of this task."""


class Encoder(Protocol):
    """What the tasks need of a model: prepared images in, one row of features per image out."""

    name: str
    key: dict[str, Any]  # All that decides the features of an image; the cache is keyed by it.
    device: torch.device
    prepare: Callable[[Image.Image], torch.Tensor]  # RGB image to a row of `embed_images`; without the model.
    has_text_tower: bool

    def embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """fp32 features of shape (B, D), not normalized."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """fp32 features of shape (B, D), not normalized; UnfitModelError without a text tower."""


def load_encoder(
    model: str,
    *,
    preprocessing: str = "model",
    pooling: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
) -> Encoder:
    """Loads an encoder.

    Args:
        model: `pixels`, a folder or `id[@revision]` on the Hub (timm models by their `timm/...` ids).
        preprocessing: `model` for the model's own processor, `release` for the transform of Apple's release.
        pooling: For models without a projection: `auto` (the model's pooled output, else its first token), `cls`,
            `mean` (over all tokens).
        dtype: `auto` is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        OSError: If there is no such model.
        ValueError: If a setting is unknown.
    """
    check_settings(preprocessing=preprocessing, pooling=pooling, dtype=dtype)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if model == "pixels":
        return PixelEncoder(device=device)
    name, _, revision = (model, "", "") if Path(model).is_dir() else model.partition("@")
    revision = revision or None
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    try:
        config = load_config(name, revision)
        loaded = AutoModel.from_pretrained(name, config=config, revision=revision, dtype=getattr(torch, dtype))
    except OSError as error:
        raise OSError(f"{model} is neither a folder with a model nor reachable on the Hub: {error}") from error
    loaded = loaded.to(device).eval()
    processor = load_image_processor(name, loaded, revision=revision, preprocessing=preprocessing)
    key = {
        "weights": fingerprint_weights(name, revision),
        "preprocessing": processor.to_dict(),
        "pooling": pooling,
        "dtype": dtype,
    }
    return TransformersEncoder(name, loaded, PreparedBy(processor), key=key, pooling=pooling, revision=revision)


def check_settings(**settings: str) -> None:
    """Refuses an unknown setting before a model is loaded."""
    for name, value in settings.items():
        if value not in SETTINGS[name]:
            *others, last = map(repr, SETTINGS[name])
            raise ValueError(f"{name} is {value!r}; it must be {', '.join(others)} or {last}.")


def load_config(model: str, revision: str | None) -> Any:
    """The model's configuration, without what transformers' wrapper of timm would pass on twice."""
    config = AutoConfig.from_pretrained(model, revision=revision)
    if config.model_type == "timm_wrapper" and config.model_args:
        # timm writes the number of classes into the arguments; the wrapper builds the model without classes.
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    return config


def load_image_processor(model: str, loaded: Any, *, revision: str | None, preprocessing: str) -> Any:
    """The model's own image processor, or the release's at the model's image size."""
    if preprocessing == "model":
        return AutoImageProcessor.from_pretrained(model, revision=revision)
    size = getattr(getattr(loaded.config, "vision_config", loaded.config), "image_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{model} does not say at which image size it works; use --preprocessing model.")
    return modeling_mofi.MofiImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def fingerprint_weights(model: str, revision: str | None) -> str:
    """Commit of a Hub model, or a hash over the files of a folder; a new training run in place changes it."""
    if not Path(model).is_dir():
        # The folder of a file in the cache bears the commit's name.
        return f"{model}@{Path(hf_hub_download(model, 'config.json', revision=revision)).parent.name}"
    digest = hashlib.sha256()
    for file in sorted(file for pattern in WEIGHT_FILES for file in Path(model).glob(pattern)):
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(2**24):
                digest.update(block)
    return digest.hexdigest()


@dataclass
class PreparedBy:
    """Prepares an image with an image processor; worker processes get it without the model."""

    processor: Any

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


@dataclass
class TransformersEncoder:
    """A model of transformers with its image processor and, if it has a text tower, its tokenizer."""

    name: str
    model: Any
    prepare: "PreparedBy"
    key: dict[str, Any]
    pooling: str = "auto"
    revision: str | None = None
    tokenizer: Any = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_text_tower(self) -> bool:
        return hasattr(self.model, "get_text_features")

    @torch.inference_mode()
    def embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pixel_values = pixel_values.to(self.device, self.model.dtype, non_blocking=True)
        if hasattr(self.model, "get_image_features"):
            return pooled(self.model.get_image_features(pixel_values=pixel_values), "auto").float()
        return pooled(self.model(pixel_values=pixel_values), self.pooling).float()

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        if not self.has_text_tower:
            raise UnfitModelError(f"{self.name} has no text tower.")
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(self.name, self.revision)
        options = text_options(self.model, self.tokenizer)
        tokens = self.tokenizer(texts, return_tensors="pt", **options).to(self.device)
        return pooled(self.model.get_text_features(**tokens), "auto").float()


def load_tokenizer(model: str, revision: str | None) -> Any:
    """The tokenizer of the model's processor, where it has one, else of its folder."""
    processor = AutoProcessor.from_pretrained(model, revision=revision)
    return getattr(processor, "tokenizer", None) or AutoTokenizer.from_pretrained(model, revision=revision)


def pooled(output: Any, pooling: str) -> torch.Tensor:
    """One row per input, shape (B, D), out of a model's output."""
    if isinstance(output, torch.Tensor):
        return output
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

    def prepare(self, image: Image.Image) -> torch.Tensor:
        side = max(image.size)
        square = ImageOps.pad(image, (side, side), color="black").resize((self.size,) * 2, Image.Resampling.BILINEAR)
        return torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)

    def embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values.to(self.device).float() / 255

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        raise UnfitModelError("pixels has no text tower.")
