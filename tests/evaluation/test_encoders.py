import shutil

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    BitImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from evaluation.encoders import PixelEncoder, load_encoder
from modeling_mofi import MofiConfig, MofiImageProcessor, MofiModel
from modeling_mofi.search.encoder import stack_inputs


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = Image.effect_mandelbrot((20, 16), (-2, -1.5, 1, 1.5), 50).convert("RGB")


def embed_one(encoder):
    return encoder.embed_images(stack_inputs([encoder.prepare(IMAGE)]))


def test_clip_gives_its_projected_features(clip_folder):
    encoder = load_encoder(clip_folder)
    pixel_values = encoder.prepare(IMAGE)["pixel_values"][None]
    expected = CLIPModel.from_pretrained(clip_folder).eval().get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(embed_one(encoder), expected)


def test_mofi_loads_without_its_head(tmp_path):
    config = MofiConfig(
        vision_config={**TOWER, "image_size": 16, "patch_size": 8}, text_config=TOWER, projection_dim=8
    )
    MofiModel(config).save_pretrained(tmp_path)
    MofiImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert embed_one(load_encoder(str(tmp_path))).shape == (1, 8)


@pytest.mark.parametrize("has_limit", [True, False])
def test_siglip_pads_its_texts_to_the_full_length(has_limit, tmp_path, clip_folder):
    vision, text = {**TOWER, "image_size": 16, "patch_size": 8}, {**TOWER, "vocab_size": 20}
    config = SiglipConfig(vision_config=vision, text_config={**text, "max_position_embeddings": 16})
    SiglipModel(config).save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{clip_folder}/{name}", tmp_path)
    encoder = load_encoder(str(tmp_path))
    encoder.embed_texts(["a"])
    encoder.tokenizer.model_max_length = 16 if has_limit else 10**30  # Gemma's knows none.
    alone, together = encoder.embed_texts(["a"]), encoder.embed_texts(["a", "a photo of the red thing"])
    torch.testing.assert_close(alone[0], together[0])
    assert embed_one(encoder).shape == (1, 16)


@pytest.fixture
def dinov2_folder(tmp_path):
    """A vision-only model."""
    Dinov2Model(Dinov2Config(**TOWER, mlp_ratio=2, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    BitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("pooling", ["auto", "cls", "mean"])
def test_a_vision_only_model_is_pooled_as_asked(dinov2_folder, pooling):
    encoder = load_encoder(dinov2_folder, pooling=pooling)
    output = AutoModel.from_pretrained(dinov2_folder).eval()(encoder.prepare(IMAGE)["pixel_values"][None])
    states = output.last_hidden_state
    expected = {"auto": output.pooler_output, "cls": states[:, 0], "mean": states.mean(dim=1)}[pooling]
    torch.testing.assert_close(embed_one(encoder), expected)


def test_a_vision_only_model_refuses_texts(dinov2_folder):
    with pytest.raises(ValueError, match="has no text tower"):
        load_encoder(dinov2_folder).embed_texts(["a"])


def test_bf16_forward_gives_fp32_features(clip_folder):
    features = embed_one(load_encoder(clip_folder, dtype="bfloat16"))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, embed_one(load_encoder(clip_folder)), rtol=0.05, atol=0.05)


def test_release_preprocessing_is_that_of_mofi_at_the_size_of_the_model(clip_folder):
    processor = MofiImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    expected = processor(IMAGE, return_tensors="pt")["pixel_values"][0]
    encoder = load_encoder(clip_folder, preprocessing="release")
    assert torch.equal(encoder.prepare(IMAGE)["pixel_values"], expected)
    assert not torch.equal(load_encoder(clip_folder).prepare(IMAGE)["pixel_values"], expected)


@pytest.mark.parametrize("model", ["missing/folder/model", "owner/model", "./missing"])
def test_a_missing_model_is_named(model):
    with pytest.raises(OSError, match=f"{model} is neither a folder with a model nor reachable"):
        load_encoder(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": "resize"}, "preprocessing is 'resize'; it must be 'model' or 'release'"),
        ({"pooling": "max"}, "pooling is 'max'; it must be 'auto', 'cls' or 'mean'"),
        ({"dtype": "int4"}, "dtype is 'int4'; it must be"),
    ],
)
def test_an_unknown_setting_is_refused(clip_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(clip_folder, **arguments)


def test_new_weights_in_the_same_folder_have_another_key(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "model")
    before = load_encoder(str(tmp_path / "model")).key
    model = CLIPModel.from_pretrained(tmp_path / "model")
    model.visual_projection.weight.data += 1
    model.save_pretrained(tmp_path / "model")
    assert load_encoder(str(tmp_path / "model")).key != before
    assert load_encoder(clip_folder).key == before


def test_pixels_are_the_image_on_a_black_square():
    encoder = PixelEncoder(torch.device("cpu"))
    prepared = encoder.prepare(Image.new("RGB", (32, 16), "white"))
    square = encoder.embed_images(stack_inputs([prepared])).view(16, 16, 3)
    assert square[0].max() == 0 and square[8].min() == 1


def test_release_preprocessing_needs_an_image_size(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not say at which image size it works"):
        load_encoder(str(tmp_path), preprocessing="release")


def test_a_convolutional_model_is_pooled(tmp_path):
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])).save_pretrained(tmp_path)
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    assert embed_one(load_encoder(str(tmp_path))).shape == (1, 12)
    assert embed_one(load_encoder(str(tmp_path), pooling="mean")).shape == (1, 12)


def test_a_timm_model_gives_what_timm_gives(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    timm.models.save_for_hf(model, tmp_path)  # It writes the number of classes twice.
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(transform(IMAGE)[None]), pre_logits=True)
    assert torch.equal(embed_one(load_encoder(str(tmp_path))), expected)
