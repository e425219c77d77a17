"""Images and texts to unit-length embeddings, batch by batch: a model and its processor as one thing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from ..data.images import read_image
from ..modeling_mofi import MofiModel
from ..processing_mofi import MofiProcessor
from .vector_search import check_lists


SILENT_SECONDS = 5  # Before a progress bar.
# One query or several: images and image files, or texts, or embeddings `[B, D]`.
Queries = str | Path | Image.Image | Sequence[str] | Sequence[Path | Image.Image] | torch.Tensor


class MofiEncoder:
    """Embeds images and texts with a MOFI checkpoint.

    Args:
        model: On the device to run on.
        processor: The checkpoint's own.
        batch_size: Images or texts that go through the model at once.
    """

    def __init__(self, model: MofiModel, processor: MofiProcessor, *, batch_size: int = 32):
        self.model, self.processor, self.batch_size = model.eval(), processor, batch_size

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *, device: str = "cpu", batch_size: int = 32) -> "MofiEncoder":
        """Loads a checkpoint folder or Hub id."""
        processor = MofiProcessor.from_pretrained(name)
        return cls(MofiModel.from_pretrained(name).to(device), processor, batch_size=batch_size)

    @property
    def name(self) -> str:
        """Folder or Hub id that the model was loaded from; empty for one made in memory."""
        return self.model.name_or_path

    @property
    def projection_dim(self) -> int:
        """Size D of the embeddings."""
        return self.model.config.projection_dim

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeds images of any mode and size: unit length, fp32, on the CPU, `[len(images), D]`."""
        return self._encode(images, "images", "image_embeds")

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeds texts, cut off at the context's length: unit length, fp32, on the CPU, `[len(texts), D]`."""
        check_lists(texts=texts)
        return self._encode(texts, "text", "text_embeds")

    def encode_entities(self, names: Sequence[str], descriptions: Sequence[str | None]) -> torch.Tensor:
        """Embeds entities by name and description, `[len(names), D]`."""
        check_lists(names=names, descriptions=descriptions)
        return self.encode_texts(
            [self.processor.entity_text(*entity) for entity in zip(names, descriptions, strict=True)]
        )

    def encode(self, queries: Queries) -> torch.Tensor:
        """Embeds images, image files (`pathlib.Path`) or texts; embeddings `[B, D]` are only brought to unit length.

        One image, file or text is one query.

        Raises:
            ValueError: If the queries are of different kinds, or embeddings of another size.
        """
        if isinstance(queries, torch.Tensor):
            if queries.ndim != 2 or queries.shape[1] != self.projection_dim:
                raise ValueError(f"Embeddings have shape {tuple(queries.shape)}; expected [B, {self.projection_dim}].")
            return torch.nn.functional.normalize(queries.detach().float().cpu(), dim=-1)
        if isinstance(queries, (str, Path, Image.Image)):
            queries = [queries]
        queries = [read_image(query) if isinstance(query, Path) else query for query in queries]
        if all(isinstance(query, str) for query in queries):
            return self.encode_texts(queries)
        if all(isinstance(query, Image.Image) for query in queries):
            return self.encode_images(queries)
        kinds = ", ".join(sorted({type(query).__name__ for query in queries}))
        raise ValueError(f"The queries are {kinds}; give images or their paths, or texts, or embeddings.")

    def _encode(self, values: Sequence[Image.Image | str], argument: str, output: str) -> torch.Tensor:
        options = text_options(self.model, self.processor.tokenizer) if argument == "text" else {}
        batches = []
        starts = range(0, len(values), self.batch_size)
        for start in tqdm(starts, desc=f"embed {argument}", unit="batch", delay=SILENT_SECONDS):
            batch = {argument: list(values[start : start + self.batch_size])}
            inputs = self.processor(**batch, **options, return_tensors="pt").to(self.model.device)
            batches.append(self.model(**inputs)[output].float().cpu())
        return torch.cat(batches) if batches else torch.empty(0, self.projection_dim)


def text_options(model: torch.nn.Module, tokenizer: Any) -> dict[str, Any]:
    """How a dual encoder of any kind wants its texts tokenized: padding, truncation and length."""
    limit = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
    own = tokenizer.model_max_length  # Some tokenizers, such as Gemma's in SigLIP 2, know no limit.
    # SigLIP was trained on texts padded to full length and embeds others differently.
    kinds = (model.config.model_type, getattr(getattr(model.config, "text_config", None), "model_type", ""))
    padding = "max_length" if any("siglip" in kind for kind in kinds) else True
    return {"padding": padding, "truncation": True, "max_length": own if limit is None else min(own, limit)}
