"""Any dual encoder as one thing: a model with its processor, images and texts to embeddings, batch by batch.

Inputs of MOFI, CLIP, SigLIP, SigLIP 2 and their like are prepared here and nowhere else.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedModel

from ..data.images import read_image
from ..processing_mofi import MofiProcessor
from ..towers_mofi import unit_length
from .model_loading import load_image_processor, load_model, load_processor
from .vector_search import check_lists


SILENT_SECONDS = 5  # Before a progress bar.
# One query or several: images and image files, or texts, or embeddings `[B, D]`.
Queries = str | Path | Image.Image | Sequence[str] | Sequence[Path | Image.Image] | torch.Tensor
# What a model takes of one image or text, or of a batch of them, by the name of the input.
Inputs = dict[str, torch.Tensor]
TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids")


class MofiEncoder:
    """Embeds images and texts with a checkpoint of MOFI, CLIP, SigLIP, SigLIP 2, or any dual encoder like them.

    Args:
        model: On the device to run on.
        processor: The checkpoint's own.
        image_processor: By default the processor's.
        batch_size: Images or texts that go through the model at once.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, *, image_processor: Any | None = None, batch_size: int = 32
    ):
        self.model, self.batch_size = model.eval(), batch_size
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_processor = image_processor or processor.image_processor
        # Folder or Hub id that the model was loaded from; empty for one made in memory.
        self.name = model.name_or_path
        # A partial, which worker processes get without the model.
        self.prepare_image = partial(prepare_image, image_processor=self.image_processor)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        dtype: torch.dtype | str = "auto",
        device: str | torch.device = "cpu",
        batch_size: int = 32,
    ) -> "MofiEncoder":
        """Loads a checkpoint folder or Hub id, or `id@revision`.

        Args:
            dtype: By default that of the checkpoint.

        Raises:
            OSError: If there is no such model.
            ValueError: If it does not embed images and texts in one space, has no weights in safetensors, or does not
                say how its images and texts are prepared.
        """
        model = load_model(name, dtype=dtype, device=device)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ValueError(
                f"{name} is a {type(model).__name__}, which does not embed images and texts in one space; MOFI, CLIP "
                "and SigLIP do."
            )
        image_processor, processor = load_image_processor(name), load_processor(name)
        encoder = cls(model, processor, image_processor=image_processor, batch_size=batch_size)
        encoder.name = str(name)
        return encoder

    @property
    def projection_dim(self) -> int:
        """Size D of the embeddings."""
        config = self.model.config
        if getattr(config, "projection_dim", None) is not None:
            return config.projection_dim
        return config.text_config.projection_size  # SigLIP has no projection; its text tower's last layer is of D.

    def image_features(self, prepared: Sequence[Inputs]) -> torch.Tensor:
        """Projected features of images out of `prepare_image`: not normalized, fp32 `[len(prepared), D]`."""
        return image_features(self.model, stack_inputs(prepared))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Projected features of texts, cut off at the context's length: not normalized, fp32 `[len(texts), D]`."""
        return text_features(self.model, self.tokenizer, texts)

    def encode_images(self, images: Sequence[Image.Image | Path]) -> torch.Tensor:
        """Embeds images of any mode and size, or image files: unit length, fp32, on the CPU, `[len(images), D]`.

        Raises:
            UnreadableImage: With the reason.
        """
        batches = self._batches(images, "images")
        prepared = ([self.prepare_image(read_image(image)) for image in batch] for batch in batches)
        return self._joined(map(self.image_features, prepared))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeds texts, cut off at the context's length: unit length, fp32, on the CPU, `[len(texts), D]`."""
        check_lists(texts=texts)
        return self._joined(map(self.text_features, self._batches(texts, "texts")))

    def encode_entities(self, names: Sequence[str], descriptions: Sequence[str | None]) -> torch.Tensor:
        """Embeds entities by name and description, `[len(names), D]`."""
        check_lists(names=names, descriptions=descriptions)
        return self.encode_texts([MofiProcessor.entity_text(*pair) for pair in zip(names, descriptions, strict=True)])

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
        queries = list(queries)
        if all(isinstance(query, str) for query in queries):
            return self.encode_texts(queries)
        if all(isinstance(query, (Path, Image.Image)) for query in queries):
            return self.encode_images(queries)
        kinds = ", ".join(sorted({type(query).__name__ for query in queries}))
        raise ValueError(f"The queries are {kinds}; give images or their paths, or texts, or embeddings.")

    def _batches(self, values: Sequence[Any], kind: str) -> Iterator[Sequence[Any]]:
        starts = range(0, len(values), self.batch_size)
        for start in tqdm(starts, desc=f"embed {kind}", unit="batch", delay=SILENT_SECONDS):
            yield values[start : start + self.batch_size]

    def _joined(self, features: Iterator[torch.Tensor]) -> torch.Tensor:
        batches = [unit_length(batch).cpu() for batch in features]
        return torch.cat(batches) if batches else torch.empty(0, self.projection_dim)


def prepare_image(image: Image.Image, *, image_processor: Any) -> Inputs:
    """What a model takes of one RGB image, without the batch dimension; of NaFlex also masks and shapes."""
    inputs = image_processor(images=image, return_tensors="pt")
    return {name: torch.as_tensor(inputs[name])[0] for name in inputs}


def stack_inputs(prepared: Sequence[Inputs]) -> Inputs:
    """Inputs of single images as those of a batch."""
    return {name: torch.stack([image[name] for image in prepared]) for name in prepared[0]}


@torch.inference_mode()
def image_features(model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
    """Projected features of a batch of prepared images: not normalized, fp32 [B, D]."""
    return projected(model.get_image_features(**moved(inputs, model)))


@torch.inference_mode()
def text_features(model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Projected features of texts, padded and cut off as the model wants it: not normalized, fp32 [len(texts), D].

    Raises:
        ValueError: If the model has no text tower.
    """
    if not has_text_tower(model):
        raise ValueError(f"{model.name_or_path or 'this model'} has no text tower; give it images alone")
    options = text_options(model, tokenizer)
    tokens = tokenizer(list(texts), return_tensors="pt", **options)
    # Texts that were padded to full length in training attended to their padding.
    names = ("input_ids",) if options["padding"] == "max_length" else TEXT_INPUTS
    inputs = {name: tokens[name] for name in names if name in tokens}
    return projected(model.get_text_features(**moved(inputs, model)))


def has_text_tower(model: PreTrainedModel) -> bool:
    """Whether a model embeds texts too; one of MOFI may have been trained on images alone."""
    return hasattr(model, "get_text_features") and getattr(model.config, "has_text_tower", True)


def moved(inputs: Inputs, model: PreTrainedModel) -> Inputs:
    """Inputs on the model's device, pixels in its precision."""
    dtypes = {name: model.dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in inputs.items()}
    return {name: tensor.to(model.device, dtypes[name], non_blocking=True) for name, tensor in inputs.items()}


def projected(output: Any) -> torch.Tensor:
    """The feature out of what `get_image_features` or `get_text_features` returns, fp32 [B, D]."""
    # transformers 5 returns an output, earlier ones and some custom models the tensor itself.
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).float()


def text_options(model: PreTrainedModel, tokenizer: Any) -> dict[str, Any]:
    """How a dual encoder of any kind wants its texts tokenized: padding, truncation and length."""
    limit = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
    own = tokenizer.model_max_length  # Some tokenizers, such as Gemma's in SigLIP 2, know no limit.
    # SigLIP was trained on texts padded to full length and embeds others differently.
    kinds = (model.config.model_type, getattr(getattr(model.config, "text_config", None), "model_type", ""))
    padding = "max_length" if any("siglip" in kind for kind in kinds) else True
    return {"padding": padding, "truncation": True, "max_length": own if limit is None else min(own, limit)}
