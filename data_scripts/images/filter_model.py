"""The CLIP-like model that judges whether an image shows an entity: CLIP, SigLIP, SigLIP 2, MOFI, or any like them."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

import modeling_mofi  # noqa: F401 - registers MOFI with AutoModel and AutoProcessor
from modeling_mofi.search.encoder import text_options


TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True)
class FilterModel:
    """A dual encoder with its processors, ready to use."""

    model: torch.nn.Module
    processor: Any
    image_processor: Any

    def move(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs on the model's device, pixels in its precision."""
        device, dtype = self.model.device, self.model.dtype
        return {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in inputs.items()}


@lru_cache(maxsize=1)
def open_filter_model(name: str) -> FilterModel:
    """Loads a dual encoder by name or path; on a GPU, if there is one, in 16 bits; from safetensors alone.

    Raises:
        ValueError: If the model has no `get_image_features` and `get_text_features`, or no processor.
    """
    device, dtype = choose_device()
    model = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True).to(device).eval()
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"filter_model {name} is a {type(model).__name__}, which does not embed images and texts in one space; "
            "CLIP, SigLIP and MOFI do"
        )
    try:
        # With torchvision installed, another backend would resize to slightly other pixels.
        image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"filter_model {name} does not say how its images and texts are prepared ({error}). A folder of Apple's "
            "MOFI release is first converted: python -m modeling_mofi.hub.convert_apple"
        ) from None
    return FilterModel(model, processor, image_processor)


def choose_device() -> tuple[torch.device, torch.dtype]:
    """The GPU of this worker and 16 bits, bfloat16 where the GPU has it; the CPU and float32 without a GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    # Workers of a pool are numbered one after the other; each takes the next GPU.
    number = (multiprocessing.current_process()._identity or (1,))[0] - 1
    device = torch.device("cuda", number % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device, torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def prepare_image(image: Image.Image, *, filter_model: str) -> dict[str, torch.Tensor]:
    """What the model takes of one RGB image, by the name of the input, without the batch dimension."""
    inputs = open_filter_model(filter_model).image_processor(images=image, return_tensors="pt")
    return {name: torch.as_tensor(inputs[name])[0] for name in inputs}


@torch.inference_mode()
def embed_images(prepared: Sequence[dict[str, torch.Tensor]], *, filter_model: str) -> np.ndarray:
    """Unit vectors of images that `prepare_image` has prepared, float32 [len(prepared), D]."""
    loaded = open_filter_model(filter_model)
    inputs = {name: torch.stack([image[name] for image in prepared]) for name in prepared[0]}
    return unit_vectors(loaded.model.get_image_features(**loaded.move(inputs)), filter_model)


@torch.inference_mode()
def embed_texts(texts: Sequence[str], *, filter_model: str) -> np.ndarray:
    """Unit vectors of texts, float32 [len(texts), D]."""
    loaded = open_filter_model(filter_model)
    options = text_options(loaded.model, loaded.processor.tokenizer)
    inputs = loaded.processor(text=list(texts), return_tensors="pt", **options)
    inputs = {name: inputs[name] for name in TEXT_INPUTS if name in inputs}
    return unit_vectors(loaded.model.get_text_features(**loaded.move(inputs)), filter_model)


def unit_vectors(features: Any, filter_model: str) -> np.ndarray:
    """Projected features of `get_image_features` or `get_text_features` as unit vectors, float32 [B, D].

    Raises:
        ValueError: If one is not finite: every comparison with it would be false, and drop its image in silence.
    """
    # transformers 5 returns an output, earlier ones and some custom models the tensor itself.
    tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    vectors = torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError(f"filter_model {filter_model} answers NaN or infinity; its weights are damaged")
    return vectors
