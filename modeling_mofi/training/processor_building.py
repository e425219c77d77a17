"""The processor of a run: images as the checkpoint's own processor makes them, texts as its text tower needs them."""

from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AutoImageProcessor, AutoTokenizer

from ..image_processing_mofi import MofiImageProcessor
from ..processing_mofi import MofiProcessor


MAX_CONTEXT = 100_000  # Tokenizers without a limit state one of 30 digits.


def build_processor(
    *, image_settings: dict[str, Any], tokenizer_name: str, text_type: str, context: int | None
) -> MofiProcessor:
    """Joins an image processor with the tokenizer of a text tower of this `model_type`; see `for_text_tower`."""
    tokenizer = for_text_tower(AutoTokenizer.from_pretrained(tokenizer_name), text_type, context=context)
    return MofiProcessor(MofiImageProcessor(**image_settings), tokenizer)


def for_text_tower(tokenizer: Any, text_type: str, *, context: int | None) -> Any:
    """Makes a tokenizer write texts as a text tower pools them, no longer than its context.

    Args:
        context: The tower's `max_position_embeddings`; None for the tokenizer's own limit.
    """
    if text_type == "clip_text_model":
        return ending_with_eos(tokenizer, context=context)
    if context is not None:
        # RoBERTa's positions begin after the padding's.
        context -= 2 if "roberta" in text_type else 0
        tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    # SigLIP's own names no attention_mask; its tower makes no use of one.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def ending_with_eos(tokenizer: Any, *, context: int | None) -> Any:
    """Makes a tokenizer end each text with EOS, its only one, where the text tower pools.

    OPT's begins texts with its EOS and does not end them: pooled at the first EOS, all would be alike.

    Args:
        context: Tokens of the longest text, EOS included; None for the tokenizer's own limit.
    """
    if context is not None:
        tokenizer.model_max_length = context
    if tokenizer.model_max_length > MAX_CONTEXT:
        raise ValueError("The tokenizer has no model_max_length; set max_position_embeddings in text_config.")
    ids, eos = tokenizer("a")["input_ids"], tokenizer.eos_token_id
    if ids[-1] != eos or eos in ids[:-1]:
        special = [(tokenizer.eos_token, eos)]
        if tokenizer.bos_token_id not in (None, eos):
            special.insert(0, (tokenizer.bos_token, tokenizer.bos_token_id))
        template = " ".join([*(token for token, _ in special[:-1]), "$A", tokenizer.eos_token])
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def image_settings(name: str) -> dict[str, Any]:
    """Fields of a `MofiImageProcessor` that does what the image processor of a checkpoint does."""
    try:
        image_processor = AutoImageProcessor.from_pretrained(name)
    except ImportError:  # DINOv3's exists for torchvision alone; its file says all that there is to know.
        found, _ = MofiImageProcessor.get_image_processor_dict(name)
    else:
        found = image_processor.to_dict()
        if isinstance(image_processor, MofiImageProcessor):
            return known_fields(found)
    # Others resize with antialiasing, and do not say so; without a word of cropping, they do not crop.
    settings = {**known_fields(found), "antialias": True, "do_center_crop": bool(found.get("do_center_crop"))}
    return without_crop_share(settings, found["crop_pct"]) if found.get("crop_pct") else settings


def known_fields(found: dict[str, Any]) -> dict[str, Any]:
    """Those settings of an image processor that a `MofiImageProcessor` has too."""
    return {name: value for name, value in found.items() if hasattr(MofiImageProcessor, name) and value is not None}


def without_crop_share(settings: dict[str, Any], share: float) -> dict[str, Any]:
    """Says in sizes what ConvNeXt's image processor says by the share of the image that it keeps of small ones."""
    edge = settings["size"]["shortest_edge"]
    if edge >= 384:
        return {**settings, "size": {"height": edge, "width": edge}}
    crop = {"do_center_crop": True, "crop_size": {"height": edge, "width": edge}}
    return {**settings, "size": {"shortest_edge": int(edge / share)}, **crop}
