"""The CLIP-like model that judges whether an image shows an entity: CLIP, SigLIP, SigLIP 2, MOFI, or any like them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from data_scripts.engine.workers import worker_index
from modeling_mofi.search.encoder import Inputs, MofiEncoder
from modeling_mofi.search.model_loading import default_dtype


@lru_cache(maxsize=1)
def open_filter_model(name: str) -> MofiEncoder:
    """Loads a dual encoder by name or path; on a GPU, if there is one, in 16 bits.

    Raises:
        OSError, ValueError: As `MofiEncoder.from_pretrained`, with the name of the setting.
    """
    device = choose_device()
    try:
        return MofiEncoder.from_pretrained(name, dtype=default_dtype(device), device=device)
    except ValueError as error:
        raise ValueError(f"filter_model {error}") from error


def choose_device() -> torch.device:
    """The GPU of this worker, or the CPU without a GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Workers of a pool are numbered one after the other; each takes the next GPU.
    device = torch.device("cuda", worker_index() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def prepare_image(image: Image.Image, *, filter_model: str) -> Inputs:
    """What the model takes of one RGB image, by the name of the input, without the batch dimension."""
    return open_filter_model(filter_model).prepare_image(image)


def embed_images(prepared: Sequence[Inputs], *, filter_model: str) -> np.ndarray:
    """Unit vectors of images that `prepare_image` has prepared, float32 [len(prepared), D]."""
    return unit_vectors(open_filter_model(filter_model).image_features(prepared), filter_model)


def embed_texts(texts: Sequence[str], *, filter_model: str) -> np.ndarray:
    """Unit vectors of texts, float32 [len(texts), D]."""
    return unit_vectors(open_filter_model(filter_model).text_features(texts), filter_model)


def unit_vectors(features: torch.Tensor, filter_model: str) -> np.ndarray:
    """Projected features as unit vectors, float32 [B, D].

    Raises:
        ValueError: If one is not finite: every comparison with it would be false, and drop its image in silence.
    """
    vectors = torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError(f"filter_model {filter_model} answers NaN or infinity; its weights are damaged")
    return vectors
