"""torch.export and transformers' exporters, with batches of any size; and what PEFT does with a model of ours."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import make_tiny_config
from tiny_towers import write_siglip
from transformers.exporters import DynamoConfig, DynamoExporter

from modeling_mofi import MofiModel


def make_inputs(batch_size):
    generator = torch.Generator().manual_seed(batch_size)
    input_ids = torch.tensor([[0, 4, 10, 2], [0, 5, 2, 1], [0, 6, 10, 2], [0, 7, 2, 1], [0, 4, 2, 1]])[:batch_size]
    pixels = torch.randn(batch_size, 3, 16, 16, generator=generator)
    return {"input_ids": input_ids, "pixel_values": pixels, "attention_mask": (input_ids != 1).long()}


def assert_same_outputs(program, model, *, batch_size):
    inputs = make_inputs(batch_size)
    expected, found = model(**inputs), program(**inputs)
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text_pooling", ["eos_first", "mean"])
@torch.no_grad()
def test_torch_export_takes_other_batch_sizes(text_pooling):
    config = make_tiny_config()
    config.text_pooling = text_pooling
    model = MofiModel(config).eval()
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in make_inputs(2)}
    program = torch.export.export(model, (), make_inputs(2), dynamic_shapes=shapes, strict=False)
    for batch_size in (1, 3, 5):
        assert_same_outputs(program.module(), model, batch_size=batch_size)


@torch.no_grad()
def test_transformers_own_exporter_takes_other_batch_sizes(tmp_path):
    write_siglip(tmp_path / "siglip")
    model = MofiModel.from_pretrained(tmp_path / "siglip").eval()
    exported = DynamoExporter().export(model, make_inputs(2), config=DynamoConfig(dynamic=True))
    (component,) = exported.components.values()
    assert_same_outputs(component.program.module(), model, batch_size=5)


@torch.no_grad()
def test_peft_adapts_a_model_with_a_stem_and_merges():
    config = make_tiny_config()
    config.stem_channels = [8, 16]
    model, inputs = MofiModel(config).eval(), make_inputs(3)
    before = model(**inputs).image_embeds
    settings = {"target_modules": "all-linear", "modules_to_save": ["convolutions"], "init_lora_weights": False}
    adapted = get_peft_model(model, LoraConfig(r=2, **settings))
    adapted.enable_input_require_grads()
    expected = adapted(**inputs).image_embeds
    merged = adapted.merge_and_unload()(**inputs).image_embeds
    torch.testing.assert_close(merged, expected)
    assert (merged - before).abs().max() > 1e-3


def test_input_embeddings_are_replaced(tmp_path):
    write_siglip(tmp_path / "siglip")
    for model in (MofiModel(make_tiny_config()), MofiModel.from_pretrained(tmp_path / "siglip")):
        new = torch.nn.Embedding(7, 16)
        model.set_input_embeddings(new)
        assert model.get_input_embeddings() is new
