"""The recipes for one's own data, on tiny checkpoints: what they train, save and resume."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tiny import write_i2e
from tiny_towers import write_image_tower, write_siglip, write_text_tower
from train_runs import saved_tensors
from transformers import AutoModel, SiglipModel

import train
from modeling_mofi import MofiConfig, MofiModel, MofiProcessor
from modeling_mofi.training.adapters import add_adapters, linear_layers, merged_state


TINY = {
    **{"per_device_train_batch_size": 4, "max_steps": 3, "save_steps": 2, "save_total_limit": 2, "warmup_steps": 0},
    **{"use_cpu": True, "bf16": False, "tf32": None, "dataloader_num_workers": 0, "attn_implementation": "eager"},
    **{"logging_steps": 1, "report_to": "none", "disable_tqdm": True, "log_level": "error"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuning")
    write_i2e(folder / "i2e")
    write_siglip(folder / "siglip")
    write_image_tower(folder / "dinov2", "dinov2")
    write_text_tower(folder / "bert", "bert")
    return folder


@pytest.fixture(scope="module")
def start(root):
    """Runs a recipe of the package, made small, from a tiny checkpoint; returns the folder of the run."""

    def start(name_of_recipe, name, *, init_from, **changes):
        (root / f"{name}.yaml").write_text(json.dumps({**TINY, **changes}), encoding="utf-8")
        flags = [f"--init_from={root / init_from}", f"--dataset={root / 'i2e'}", f"--output_dir={root / name}"]
        train.main([f"configs/{name_of_recipe}.yaml", str(root / f"{name}.yaml"), *flags])
        return root / name

    return start


@pytest.fixture(scope="module")
def adapted(start):
    return start("finetune_lora", "adapted", init_from="siglip", lora={"r": 2, "lora_dropout": 0.1})


def log_of(folder):
    return [
        entry for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in entry
    ]


def assert_same(folder, other):
    tensors, others = saved_tensors(folder), saved_tensors(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def resume(start, recipe, folder, name, **settings):
    """Goes on from another run's checkpoint of two steps."""
    again = folder.with_name(name)
    shutil.copytree(folder / "checkpoint-2", again / "checkpoint-2")
    shutil.copy(folder / "recipe.json", again)
    return start(recipe, name, **settings)


def test_the_recipe_for_one_gpu_trains_both_losses_from_siglip(start):
    folder = start("finetune_one_gpu", "one_gpu", init_from="siglip", gradient_cache_size=2, num_sampled_entities=2)
    assert {"contrastive_loss", "entity_loss"} <= log_of(folder)[-1].keys()
    assert (folder / "checkpoint-2" / "trained_towers.safetensors").is_file()  # Beside their average.


def test_an_image_encoder_learns_entities_without_a_text_tower(start):
    settings = {"init_from": "dinov2", "projection_dim": 6}
    folder = start("finetune_vision_only", "vision", **settings)
    assert "entity_loss" in log_of(folder)[-1] and "contrastive_loss" not in log_of(folder)[-1]
    model, processor = AutoModel.from_pretrained(folder), MofiProcessor.from_pretrained(folder)
    assert model.text_model is None and not any("text" in name for name in model.state_dict())
    image = Image.new("RGB", (20, 30), "red")
    assert model(**processor(images=image, return_tensors="pt")).image_embeds.shape == (1, 6)
    with pytest.raises(ValueError, match="has no tokenizer"):
        processor(text=["a flag"])
    with pytest.raises(ValueError, match="no text tower .*give it images alone"):
        model(input_ids=torch.tensor([[0, 4, 2]]))
    assert_same(folder, resume(start, "finetune_vision_only", folder, "vision-again", **settings))
    further = start("finetune_vision_only", "vision-further", init_from="vision", max_steps=1)
    assert not MofiConfig.from_pretrained(further).has_text_tower


@pytest.mark.parametrize("settings", [{"recipe": "multi-task"}, {"entity_init": "text"}])
def test_texts_without_a_text_tower_are_refused(start, settings):
    with pytest.raises(ValueError, match="no text tower"):
        start("finetune_vision_only", "refused", init_from="dinov2", **settings)


def test_the_text_tower_alone_follows_the_images_after_the_run(root, start):
    settings = {"text_init_from": str(root / "bert"), "projection_dim": 6, "text_alignment_epochs": 0.5}
    folder = start("finetune_vision_only", "aligned", init_from="dinov2", **settings)
    before, after = saved_tensors(folder / "before_alignment"), saved_tensors(folder)
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed and {name.split(".")[0] for _, name in changed} <= {"text_model", "text_projection", "logit_scale"}
    assert ("entity_head.safetensors", "weight") in after
    assert len(log_of(folder)) == 3  # Half an epoch of six steps.


def test_adapters_are_merged_into_what_is_saved(root, adapted):
    before, after = SiglipModel.from_pretrained(root / "siglip").state_dict(), MofiModel.from_pretrained(adapted)
    assert before.keys() == after.state_dict().keys()
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    layers = {f"vision_model.{name}.weight" for name in linear_layers(after.vision_model)}
    layers |= {f"text_model.{name}.weight" for name in linear_layers(after.text_model)}
    assert len(layers) == 2 * 2 * 6  # Towers, layers, and four of attention beside two of the feed-forward part.
    assert changed == layers | {"logit_scale", "logit_bias"}


def test_adapters_resume_to_the_bit(start, adapted):
    settings = {"init_from": "siglip", "lora": {"r": 2, "lora_dropout": 0.1}}
    again = resume(start, "finetune_lora", adapted, "adapted-again", **settings)
    assert_same(adapted, again)
    assert_same(adapted / "checkpoint-3", again / "checkpoint-3")


@torch.no_grad()
def test_merged_towers_give_the_embeddings_of_adapted_ones(tiny_config):
    torch.manual_seed(0)
    model, pixels = MofiModel(tiny_config).eval(), torch.randn(2, 3, 16, 16)
    plain = model(pixel_values=pixels).image_embeds
    add_adapters(model, {"r": 2, "init_lora_weights": False})
    adapted = model(pixel_values=pixels).image_embeds
    merged = MofiModel(tiny_config).eval()
    merged.load_state_dict(merged_state(model))
    torch.testing.assert_close(merged(pixel_values=pixels).image_embeds, adapted)
    assert (adapted - plain).abs().max() > 0.01


def test_unknown_settings_of_adapters_are_refused(tiny_config):
    with pytest.raises(ValueError, match="PEFT refuses it for vision_model .*rank"):
        add_adapters(MofiModel(tiny_config), {"rank": 2})
