"""MofiForPreTraining: towers and head together."""

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from modeling_mofi import MofiForPreTraining, MofiModel
from modeling_mofi.losses_mofi import contrastive_loss
from modeling_mofi.pretraining import head_folder


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
    with pytest.raises(ValueError, match="has 4 entities, this model's has 9"):
        MofiForPreTraining.from_pretrained(tmp_path, config=tiny_config)
    other = MofiForPreTraining.from_pretrained(tmp_path, config=tiny_config, with_head=False)
    assert other.entity_head.weight.shape == (9, 16)


def test_the_head_of_a_checkpoint_on_the_hub_is_loaded(model, tmp_path):
    # As the Hub's client keeps what it has fetched.
    repository = tmp_path / "models--me--mofi"
    model.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    loaded = MofiForPreTraining.from_pretrained("me/mofi", cache_dir=tmp_path)
    assert torch.equal(loaded.entity_head.weight, model.entity_head.weight)
    assert head_folder("me/mofi", cache_dir=str(tmp_path)) == repository / "snapshots" / ("0" * 40)


def test_a_checkpoint_without_head_says_that_its_rows_are_new(model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    (tmp_path / "entity_head.safetensors").unlink()
    MofiForPreTraining.from_pretrained(tmp_path)
    assert "has no entity head: its rows are new" in caplog.text


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
