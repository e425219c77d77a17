"""MofiForPreTraining: towers and head together."""

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from modeling_mofi import MofiForPreTraining, MofiModel
from modeling_mofi.losses_mofi import contrastive_loss


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return MofiForPreTraining(tiny_config, scale=8.0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.tensor([[0, 4, 10, 2], [0, 5, 10, 2], [0, 6, 10, 2]])
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "input_ids": input_ids, "entity_labels": torch.tensor([0, 1, 0])}


def test_losses_are_those_of_the_embeddings(model, batch):
    outputs = model(**batch)
    expected = contrastive_loss(
        outputs.image_embeds,
        outputs.text_embeds,
        logit_scale=model.mofi.logit_scale.exp(),
        entity_labels=batch["entity_labels"],
    )
    torch.testing.assert_close(outputs.contrastive_loss, expected)
    torch.testing.assert_close(outputs.entity_loss, model.entity_head(outputs.image_embeds, batch["entity_labels"]))
    torch.testing.assert_close(outputs.loss, outputs.contrastive_loss + outputs.entity_loss)
    embeds = model.mofi(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])
    torch.testing.assert_close(outputs.image_embeds, embeds.image_embeds)
    torch.testing.assert_close(outputs.text_embeds, embeds.text_embeds)


def test_inputs_decide_the_losses(model, batch):
    supervised = model(pixel_values=batch["pixel_values"], entity_labels=batch["entity_labels"])
    contrastive = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])
    assert supervised.contrastive_loss is None
    assert supervised.entity_loss is not None
    assert contrastive.entity_loss is None
    assert contrastive.contrastive_loss is not None


def test_a_batch_that_allows_no_loss_is_refused(model, batch):
    with pytest.raises(ValueError, match="allows no loss: it has no input_ids"):
        model(pixel_values=batch["pixel_values"])
    assert model(pixel_values=batch["pixel_values"], return_loss=False).loss is None


def test_a_saved_model_comes_back_with_its_head(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MofiForPreTraining.from_pretrained(tmp_path, scale=8.0)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path), MofiForPreTraining)


def test_the_saved_towers_are_a_mofi_model_without_head(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is MofiModel
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not any("entity_head" in name for name in loaded.state_dict())


def test_a_head_of_another_size_is_not_taken(model, tmp_path, tiny_config):
    model.save_pretrained(tmp_path)
    tiny_config.num_entities = 9
    other = MofiForPreTraining.from_pretrained(tmp_path, config=tiny_config)
    assert other.entity_head.weight.shape == (9, 16)
    with pytest.raises(ValueError, match="has 4 entities, this model's has 9"):
        other.load_head(tmp_path)


def test_gradient_checkpointing_leaves_the_gradient_as_it_is(model, batch):
    model.train()
    model(**batch).loss.backward()
    expected = {name: parameter.grad.to_dense().clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.to_dense(), expected[name])


def test_patch_dropout_reaches_the_vision_tower_only(model, batch):
    kept = torch.tensor([[0, 1], [1, 2], [2, 3]])
    whole, part = model(**batch), model(**batch, kept_patches=kept)
    assert not torch.allclose(whole.image_embeds, part.image_embeds)
    assert torch.equal(whole.text_embeds, part.text_embeds)
