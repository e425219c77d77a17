"""The configuration: what it holds, what it refuses, and what it takes from a CLIP config.json."""

import json

import pytest
from transformers import AutoConfig, BertConfig, CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from modeling_mofi import MofiConfig


def test_saved_configuration_comes_back_equal(tiny_config, tmp_path):
    tiny_config.save_pretrained(tmp_path)
    assert MofiConfig.from_pretrained(tmp_path).to_dict() == tiny_config.to_dict()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MofiConfig)


def test_towers_may_be_given_as_dicts_instances_or_not_at_all():
    config = MofiConfig(vision_config=CLIPVisionConfig(patch_size=16), text_config={"vocab_size": 11})
    assert (config.vision_config.patch_size, config.text_config.vocab_size) == (16, 11)
    assert MofiConfig().text_config.to_dict() == CLIPTextConfig().to_dict()


def test_clip_configuration_keeps_its_towers(tmp_path):
    clip = CLIPConfig(text_config={"hidden_size": 24}, vision_config={"patch_size": 7}, projection_dim=5)
    clip.save_pretrained(tmp_path)
    config = MofiConfig.from_pretrained(tmp_path)
    assert (config.text_config.hidden_size, config.vision_config.patch_size, config.projection_dim) == (24, 7, 5)
    assert config.model_type == "mofi" and not config.architectures


@pytest.mark.parametrize(("eos_token_id", "pooling"), [(2, "argmax"), (49407, "eos_first")])
def test_clip_configuration_gets_the_pooling_that_clip_applies(tmp_path, eos_token_id, pooling):
    CLIPConfig(text_config={"eos_token_id": eos_token_id}).save_pretrained(tmp_path)
    assert MofiConfig.from_pretrained(tmp_path).text_pooling == pooling


def test_mofi_configuration_with_eos_2_pools_at_eos(tiny_config, tmp_path):
    tiny_config.save_pretrained(tmp_path)
    loaded = MofiConfig.from_pretrained(tmp_path)
    assert (loaded.text_config.eos_token_id, loaded.text_pooling) == (2, "eos_first")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"text_pooling": "max"}, "text_pooling is 'max'; it must be one of eos_first, argmax, first, mean, pooler"),
        ({"contrast": "mse"}, "contrast is 'mse'; it must be one of softmax, sigmoid"),
        ({"vision_config": {"model_type": "dinov2"}, "stem_channels": [8]}, "type 'dinov2' cannot have a stem"),
        ({"num_entities": -1}, "num_entities is -1; it must be 0"),
        ({"text_config": {"eos_token_id": None}}, "eos_token_id is None.*needs the id"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        MofiConfig(**setting)


def test_another_models_configuration_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a 'bert' model; MOFI loads those of model_type 'mofi', 'clip' or 'siglip'"):
        MofiConfig.from_pretrained(tmp_path)


def test_two_million_entities_stay_a_small_file(tmp_path):
    MofiConfig(num_entities=2_000_000).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert len(text) < 5_000 and json.loads(text)["num_entities"] == 2_000_000
