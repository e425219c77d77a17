"""Loads a model and what prepares its inputs, by folder, Hub id or `id@revision`, and never runs code beside them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file


# What decides about embeddings beside the weights.
SETTINGS_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
SETTINGS_FILES += ("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")


def load_model(
    name: str | os.PathLike, *, dtype: torch.dtype | str = "auto", device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """Loads a model of any kind that AutoModel knows.

    Raises:
        OSError, ValueError: As `load_config`.
        ValueError: If its weights are damaged.
    """
    path, revision = split_revision(name)
    config = load_config(name)
    try:
        model = AutoModel.from_pretrained(path, config=config, revision=revision, dtype=dtype, use_safetensors=True)
    except SafetensorError as error:
        raise ValueError(f"a .safetensors file of {name} is damaged ({error}); copy or download it again") from error
    except OSError as error:  # Its configuration is there.
        raise OSError(f"{name} has no weights in safetensors, and others are never opened: {error}") from error
    return model.to(device).eval()


def load_config(name: str | os.PathLike) -> PreTrainedConfig:
    """A model's configuration, without what transformers' wrapper of timm would pass on twice.

    Raises:
        OSError: If there is no such model.
        ValueError: If a folder has no weights in safetensors: pickled ones can run any code.
    """
    path, revision = split_revision(name)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{name} is neither a folder with a model nor reachable on the Hub: {reason}") from error
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        pickles = ", ".join(sorted(file.name for file in Path(path).glob("*.bin")))
        found = f"only {pickles}, and pickles are never opened: they can run any code" if pickles else "nor others"
        raise ValueError(f"{name} has no weights in safetensors ({found}); take a copy in safetensors")
    if config.model_type == "timm_wrapper" and config.model_args:
        # timm writes the number of classes into the arguments; the wrapper builds the model without classes.
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    return config


def load_image_processor(name: str | os.PathLike) -> Any:
    """The image processor of a model; raises ValueError if there is none."""
    # With torchvision installed, another backend would resize to slightly other pixels.
    return load_preparation(AutoImageProcessor, name, backend="pil")


def load_processor(name: str | os.PathLike) -> Any:
    """The processor of a dual encoder, or a tokenizer where it has no more; raises ValueError if there is none."""
    return load_preparation(AutoProcessor, name)


def load_preparation(auto_class: Any, name: str | os.PathLike, **options: Any) -> Any:
    """What prepares the inputs of a model.

    Raises:
        ValueError: If it is not beside the model, as in Apple's release.
    """
    path, revision = split_revision(name)
    try:
        return auto_class.from_pretrained(path, revision=revision, **options)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} does not say how its images and texts are prepared ({reason}). A folder of Apple's MOFI release "
            "is first converted: python -m modeling_mofi.hub.convert_apple"
        ) from error


def split_revision(name: str | os.PathLike) -> tuple[str, str | None]:
    """Folder, or Hub id with the revision that `id@revision` names."""
    path, _, revision = (str(name), "", "") if Path(name).is_dir() else str(name).partition("@")
    return path, revision or None


def fingerprint_model(name: str | os.PathLike) -> str:
    """Stands for the weights of a model: hashes of the files of a folder, or the commit of a model on the Hub.

    A new training run in the same folder changes it.
    """
    path, revision = split_revision(name)
    if not Path(path).is_dir():
        # The folder of a file in the cache bears the commit's name.
        return f"{path}@{Path(cached_file(path, 'config.json', revision=revision)).parent.name}"
    files = [Path(path) / file for file in SETTINGS_FILES if (Path(path) / file).is_file()]
    digests = {}
    for file in [*files, *sorted(Path(path).glob("*.safetensors"))]:
        with file.open("rb") as handle:
            digests[file.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on a CPU; on a GPU bfloat16, or float16 where the GPU does not have it."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
