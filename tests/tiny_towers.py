"""Tiny checkpoints of encoders of every family, alone or as a whole model, with their processors."""

from pathlib import Path

import torch
from tiny import WORDS, make_tiny_tokenizer
from transformers import AutoConfig, AutoModel, CLIPImageProcessor, PreTrainedModel, SiglipConfig, SiglipModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {**WIDTHS, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}
SIZE, EDGE = {"height": 16, "width": 16}, {"shortest_edge": 18}
# Fields of an image tower by type, and the image processor that its checkpoints come with.
IMAGE_TOWERS = {
    "dinov2": (
        {**VIT, "mlp_ratio": 2, "image_size": 24},
        CLIPImageProcessor(size=EDGE, crop_size=16),
    ),
    "dinov2_with_registers": ({**VIT, "mlp_ratio": 2, "num_register_tokens": 2}, ViTImageProcessorPil(size=SIZE)),
    "dinov3_vit": ({**VIT, "num_register_tokens": 2}, ViTImageProcessorPil(size=SIZE)),
    "dinov3_convnext": (CONVNEXT, ViTImageProcessorPil(size={"height": 32, "width": 32})),
    "vit": (VIT, ViTImageProcessorPil(size=SIZE)),
    "aimv2_vision_model": (VIT, CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)),
    "convnextv2": (CONVNEXT, ConvNextImageProcessorPil(size={"shortest_edge": 32})),
    "mlcd_vision_model": (VIT, CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)),
}
TEXT = {**WIDTHS, "intermediate_size": 32, "vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 2}
TEXT_TOWERS = {
    "bert": {**TEXT, "max_position_embeddings": 12, "pad_token_id": 1},
    "xlm-roberta": {**TEXT, "max_position_embeddings": 12, "pad_token_id": 1},
    "modernbert": {**TEXT, "max_position_embeddings": 12, "pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2},
}


def write_image_tower(folder: Path, kind: str) -> PreTrainedModel:
    """An image encoder with random weights, beside its image processor."""
    fields, image_processor = IMAGE_TOWERS[kind]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **fields)).eval()
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return model


def write_text_tower(folder: Path, kind: str) -> PreTrainedModel:
    """A text encoder with random weights, beside a tokenizer."""
    torch.manual_seed(1)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **TEXT_TOWERS[kind])).eval()
    model.save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return model


def write_siglip(folder: Path) -> SiglipModel:
    """A SigLIP model with random weights whose configuration, as SigLIP 2's, does not say what the padding is."""
    torch.manual_seed(2)
    text = {**TEXT, "max_position_embeddings": 8, "pad_token_id": 3}
    model = SiglipModel(SiglipConfig(vision_config=VIT, text_config=text)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(4.8)  # Beyond CLIP's limit of ln 100.
        model.logit_bias.fill_(-12.0)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size=SIZE).save_pretrained(folder)
    tokenizer = make_tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.save_pretrained(folder)
    return model
