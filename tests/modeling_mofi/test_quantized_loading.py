"""Quantized loading, with each library that is installed: embeddings stay close to those in full precision."""

import pytest
import torch
from tiny import make_tiny_config
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from modeling_mofi import MofiForImageClassification, MofiModel, MofiVisionModel


# A new classifier has no weights yet that could be quantized.
KEPT = ["visual_projection", "text_projection", "classifier"]


def torchao_config():
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=KEPT)


INPUTS = {
    "input_ids": torch.tensor([[0, 7, 9, 2, 1], [0, 8, 5, 6, 2]]),
    "pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
}
CONFIGS = {
    "bitsandbytes": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT),
    "optimum.quanto": lambda: QuantoConfig(weights="int8", modules_to_not_convert=KEPT),
    "torchao": torchao_config,
}


@pytest.fixture(params=CONFIGS)
def quantization(request):
    pytest.importorskip(request.param, exc_type=ImportError)
    return CONFIGS[request.param]()


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = MofiModel(make_tiny_config()).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


@torch.no_grad()
def test_quantized_towers_embed_nearly_as_in_full_precision(checkpoint, quantization):
    folder, model = checkpoint
    quantized = MofiModel.from_pretrained(folder, quantization_config=quantization).eval()
    layer = quantized.vision_model.encoder.layers[0].mlp.fc1
    assert (type(layer), type(layer.weight)) != (torch.nn.Linear, torch.nn.Parameter)
    assert type(quantized.visual_projection) is type(quantized.text_projection) is torch.nn.Linear
    assert torch.equal(quantized.logit_scale, model.logit_scale)
    outputs, expected = quantized(**INPUTS), model(**INPUTS)
    for name in ("image_embeds", "text_embeds"):
        cosines = (outputs[name].float() * expected[name]).sum(-1)
        assert cosines.min() > 0.99 and not torch.equal(outputs[name], expected[name]), name


@pytest.mark.parametrize("kind", [MofiVisionModel, MofiForImageClassification])
@torch.no_grad()
def test_parts_of_a_checkpoint_are_quantized_too(checkpoint, quantization, kind):
    folder, _ = checkpoint
    images = INPUTS["pixel_values"]
    expected = kind.from_pretrained(folder).eval()(images)
    outputs = kind.from_pretrained(folder, quantization_config=quantization).eval()(images)
    name = "pooler_output" if kind is MofiVisionModel else "logits"
    assert outputs[name].shape == expected[name].shape and torch.isfinite(outputs[name]).all()


def test_the_layer_that_reads_the_input_is_known(checkpoint):
    folder, model = checkpoint
    assert model.get_input_embeddings() is model.text_model.embeddings.token_embedding
    vision = MofiVisionModel.from_pretrained(folder)
    assert vision.get_input_embeddings() is vision.vision_model.embeddings.patch_embedding
