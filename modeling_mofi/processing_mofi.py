"""MOFI's processor: images to pixels, texts to tokens, entities to texts."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedConfig, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs

from .image_processing_mofi import MofiImageProcessor


class MofiProcessorKwargs(ProcessingKwargs, total=False):
    """Texts of a batch are padded to the longest and cut off at the context's length, EOS kept."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}


class MofiProcessor(ProcessorMixin):
    """Joins a `MofiImageProcessor` and a tokenizer whose texts end with EOS and are padded on the right.

    Args:
        image_processor: Turns images into `pixel_values`.
        tokenizer: Turns texts into `input_ids`, truncated to its `model_max_length` with EOS kept. None for a model of
            images alone.
    """

    valid_processor_kwargs = MofiProcessorKwargs

    def __init__(self, image_processor: MofiImageProcessor | None = None, tokenizer: Any | None = None, **kwargs: Any):
        if tokenizer is not None:
            # Left padding shifts positions, which the text tower was never trained for; so would cutting off the left.
            tokenizer.padding_side = tokenizer.truncation_side = "right"
        super().__init__(image_processor, tokenizer, **kwargs)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "tokenizer" and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchEncoding:
        """Prepares images, texts or both.

        Raises:
            ValueError: If there are texts and no tokenizer.
        """
        if self.tokenizer is not None:
            return super().__call__(images=images, text=text, **kwargs)
        if text is not None:
            raise ValueError("This checkpoint is of images alone: it has no tokenizer, and its model no text tower.")
        return self.image_processor(images, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> Any:
        """Saves image processor and tokenizer; without the latter the folder holds an image processor alone."""
        saved = self.image_processor if self.tokenizer is None else super()
        return saved.save_pretrained(save_directory, **kwargs)

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type: str, name: str | os.PathLike, **kwargs: Any) -> Any:
        try:
            found, _ = PreTrainedConfig.get_config_dict(name)
        except OSError:  # A processor that was saved without a model.
            found = {}
        if found.get("has_text_tower") is False:
            return None
        return super()._load_tokenizer_from_pretrained(sub_processor_type, name, **kwargs)

    @staticmethod
    def entity_text(name: str, description: str | None = None) -> str:
        """Writes an entity as the text that the text tower reads: `name`, or `name, description`.

        The template is ours; the paper's is not known.
        """
        return f"{name}, {description}" if description else name

    def encode_entities(
        self, names: Sequence[str], descriptions: Sequence[str | None] | None = None, **kwargs: Any
    ) -> BatchEncoding:
        """Tokenizes entities, padded and truncated: `input_ids` and `attention_mask` of shape `[len(names), L]`."""
        descriptions = descriptions if descriptions is not None else [None] * len(names)
        texts = [self.entity_text(*entity) for entity in zip(names, descriptions, strict=True)]
        return self.tokenizer(texts, **{"padding": True, "truncation": True, "return_tensors": "pt", **kwargs})
