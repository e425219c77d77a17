"""Parts of images and smaller images."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_mofi import MofiModel
from modeling_mofi.patch_dropout import (
    check_patch_dropout,
    draw_patches,
    keep_patches,
    prepare_for_kept_patches,
    shrink_images,
    value_at,
)


@pytest.fixture
def vision_model(tiny_config):
    torch.manual_seed(0)
    vision_model = MofiModel(tiny_config).vision_model.eval()
    prepare_for_kept_patches(vision_model)
    return vision_model


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))  # Four patches of 8 x 8.


def test_patches_that_are_left_out_do_not_matter(vision_model, pixels):
    kept = torch.tensor([[0, 3], [1, 2]])
    garbled = pixels.clone()
    garbled[0, :, :8, 8:] = garbled[1, :, :8, :8] = 9.0  # Patch 1 of the first image, patch 0 of the second.
    with keep_patches(vision_model, kept):
        assert torch.equal(vision_model(garbled).pooler_output, vision_model(pixels).pooler_output)
    assert not torch.equal(vision_model(garbled).pooler_output, vision_model(pixels).pooler_output)


def test_all_patches_kept_is_the_whole_image(vision_model, pixels):
    expected = vision_model(pixels).pooler_output
    with keep_patches(vision_model, torch.arange(4).expand(2, 4)):
        torch.testing.assert_close(vision_model(pixels).pooler_output, expected, rtol=0, atol=0)


def test_a_compiled_tower_keeps_other_patches_at_each_call(vision_model, pixels):
    calls = [None, torch.tensor([[0, 3], [1, 2]]), torch.tensor([[1], [2]]), None]

    def pooled(kept):
        with keep_patches(vision_model, kept):
            return vision_model(pixels).pooler_output

    expected = list(map(pooled, calls))
    vision_model.compile(backend="eager")
    for kept, plain in zip(calls, expected, strict=True):
        torch.testing.assert_close(pooled(kept), plain, rtol=0, atol=1e-6)


def test_patches_are_a_function_of_the_noise():
    noise = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.0], [0.2, 0.8, 0.1, 0.9, 0.0]])
    assert draw_patches(noise, num_patches=4, dropout=0.5).tolist() == [[1, 3], [0, 2]]
    assert draw_patches(noise, num_patches=4, dropout=0.0).tolist() == [[0, 1, 2, 3]] * 2
    assert draw_patches(noise, num_patches=4, dropout=0.99).tolist() == [[1], [2]]


def test_small_images_average_pixels():
    image = torch.zeros(1, 3, 4, 4)
    image[..., :2] = 1.0
    small = shrink_images(image, image_size=2)
    torch.testing.assert_close(small.mean(), torch.tensor(0.5))
    assert shrink_images(image, image_size=4) is image


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 112), (0.79, 112), (0.8, 224), (1.0, 224)])
def test_a_schedule_holds_a_value_until_the_next_begins(progress, expected):
    assert value_at({0.0: 112, 0.8: 224}, progress) == expected


def test_an_empty_schedule_has_no_value():
    assert value_at({}, 0.5) is None


@pytest.mark.parametrize("kind", ["dinov3_vit", "mlcd_vision_model", "aimv2_vision_model", "convnextv2"])
def test_towers_that_need_all_patches_are_named(kind):
    with pytest.raises(ValueError, match=f"type '{kind}' needs all patches of an image.*Leave out patch_dropout"):
        check_patch_dropout(AutoConfig.for_model(kind))


@pytest.mark.parametrize(("kind", "num_prefix"), [("siglip_vision_model", 0), ("dinov2", 1), ("vit", 1)])
@torch.no_grad()
def test_other_towers_see_the_kept_patches_alone(kind, num_prefix):
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    tower = AutoModel.from_config(AutoConfig.for_model(kind, intermediate_size=32, **fields)).eval()
    prepare_for_kept_patches(tower)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with keep_patches(tower, torch.tensor([[0, 2], [0, 2]])):
        kept = tower(pixel_values=pixels)
    assert kept.last_hidden_state.shape[1] == num_prefix + 2
    pixels[:, :, :, 8:] += 5  # Patches 1 and 3, which are left out.
    with keep_patches(tower, torch.tensor([[0, 2], [0, 2]])):
        torch.testing.assert_close(tower(pixel_values=pixels).pooler_output, kept.pooler_output)
    assert not torch.allclose(tower(pixel_values=pixels).pooler_output, kept.pooler_output)
