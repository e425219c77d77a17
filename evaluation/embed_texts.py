"""Embeds texts once per model, in parts that are kept by their content."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from evaluation.embedding_cache import is_whole
from evaluation.encoders import Encoder
from modeling_mofi.whole_files import write_whole


TEXTS_PER_PART = 2**15


def embed_texts(encoder: Encoder, texts: list[str], *, batch_size: int = 256, cache_dir: Path) -> torch.Tensor:
    """fp32 features of shape (len(texts), D), not normalized, on the encoder's device.

    Raises:
        UnfitModelError: If the model has no text tower.
        ValueError: If a feature is not finite; the message names the text.
    """
    parts = []
    with tqdm(total=len(texts), desc=f"{encoder.name} embeds texts", unit="text", delay=5, mininterval=2) as progress:
        for start in range(0, len(texts), TEXTS_PER_PART):
            part = texts[start : start + TEXTS_PER_PART]
            parts.append(embed_part(encoder, part, batch_size=batch_size, cache_dir=cache_dir))
            progress.update(len(part))
    features = torch.cat(parts).to(encoder.device)
    bad = torch.where(~features.isfinite().all(dim=1))[0].tolist()
    if bad:
        raise ValueError(f"{len(bad)} text embeddings are NaN or infinite, first that of {texts[bad[0]]!r}.")
    return features


def embed_part(encoder: Encoder, texts: list[str], *, batch_size: int, cache_dir: Path) -> torch.Tensor:
    """Reads a part from the cache, or embeds it and keeps it."""
    key = json.dumps([encoder.key, texts], sort_keys=True, default=str)
    path = cache_dir / "texts" / f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"
    if is_whole(path):
        return load_file(path)["features"]
    batches = [encoder.embed_texts(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    features = torch.cat(batches).cpu()
    with write_whole(path) as temporary:
        save_file({"features": features}, temporary)
    return features
