"""The stem of convolutions: kept by checkpoints, optional, checked, and as flexible as CLIP's own patches."""

import json

import pytest
import torch
from transformers import AutoModel

from modeling_mofi import MofiConfig, MofiModel, MofiVisionModelWithProjection
from modeling_mofi.towers_mofi import MofiConvStem


def images(size=16):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stem_model(tiny_config):
    torch.manual_seed(0)
    return MofiModel(MofiConfig(**{**tiny_config.to_dict(), "stem_channels": [8, 16]})).eval()


def stem_of(model):
    (stem,) = (module for module in model.modules() if isinstance(module, MofiConvStem))
    return stem


def test_stem_gives_one_vector_per_patch(stem_model):
    assert stem_of(stem_model)(images()).shape == (2, 16, 2, 2)


def test_models_without_stem_are_clips(tiny_config):
    assert not any(isinstance(module, MofiConvStem) for module in MofiModel(tiny_config).modules())


@torch.no_grad()
def test_checkpoint_keeps_the_stem(stem_model, tmp_path):
    stem_model.save_pretrained(tmp_path)
    expected = stem_model(pixel_values=images()).image_embeds
    for kind in (MofiModel, MofiVisionModelWithProjection, AutoModel):
        loaded = kind.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded(pixel_values=images()).image_embeds, expected, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["stem_channels"] == [8, 16]


@torch.no_grad()
def test_images_do_not_touch_one_another(stem_model):
    alone = torch.cat([stem_model(pixel_values=image[None]).image_embeds for image in images()])
    torch.testing.assert_close(stem_model(pixel_values=images()).image_embeds, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_larger_images_are_read_with_interpolated_positions(stem_model):
    embeds = stem_model(pixel_values=images(24), interpolate_pos_encoding=True).image_embeds
    assert embeds.shape == (2, stem_model.config.projection_dim)


def test_every_weight_of_the_stem_gets_a_gradient(stem_model):
    stem_model(pixel_values=images()).image_embeds[:, 0].sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in stem_of(stem_model).parameters())


@pytest.mark.parametrize(
    ("channels", "message"),
    [([12], "multiple of 8"), ([0], "multiple of 8"), ([8, 8, 8, 8], "multiple of 16")],
)
def test_channels_that_do_not_fit_are_refused(tiny_config, channels, message):
    with pytest.raises(ValueError, match=message):
        MofiConfig(**{**tiny_config.to_dict(), "stem_channels": channels})
