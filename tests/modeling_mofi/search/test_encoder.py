"""One dual encoder of any kind for search, data build and evaluation: the same embeddings, the same refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from apple_release import write_release
from PIL import Image
from tiny_dual_encoders import KINDS, write_clip
from tiny_towers import write_siglip

from data_scripts.images import filter_model
from evaluation.encoders import load_encoder
from modeling_mofi.search import model_loading
from modeling_mofi.search.encoder import MofiEncoder, stack_inputs
from modeling_mofi.search.model_loading import default_dtype, split_revision


NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(NOISE), Image.new("RGB", (30, 90), "red"), Image.new("RGB", (16, 16))]
TEXTS = ["a flag", "a flag of the red picture " * 9]


def searched(name):
    encoder = MofiEncoder.from_pretrained(name)
    return encoder.encode_images(IMAGES), encoder.encode_texts(TEXTS)


def built(name):
    filter_model.open_filter_model.cache_clear()
    prepared = [filter_model.prepare_image(image, filter_model=name) for image in IMAGES]
    images = filter_model.embed_images(prepared, filter_model=name)
    return torch.from_numpy(images), torch.from_numpy(filter_model.embed_texts(TEXTS, filter_model=name))


def evaluated(name):
    encoder = load_encoder(name)
    images = encoder.embed_images(stack_inputs([encoder.prepare(image) for image in IMAGES]))
    return images, encoder.embed_texts(TEXTS)


USERS = (searched, built, evaluated)


@pytest.mark.parametrize("kind", KINDS)
def test_search_build_and_evaluation_embed_alike(kind, tmp_path):
    torch.manual_seed(0)
    KINDS[kind](tmp_path)
    for search, build, features in zip(*(user(str(tmp_path)) for user in USERS), strict=True):
        assert torch.equal(build, torch.nn.functional.normalize(features, dim=-1))
        torch.testing.assert_close(search, build, rtol=0, atol=2e-7)
        assert (
            search.dtype == torch.float32 and search.shape[1] == MofiEncoder.from_pretrained(tmp_path).projection_dim
        )


def test_what_is_transparent_is_white_for_clip_too(tmp_path):
    write_clip(tmp_path)
    encoder = MofiEncoder.from_pretrained(tmp_path)
    transparent = Image.new("RGBA", (20, 20), (9, 9, 9, 0))
    assert torch.equal(
        encoder.encode_images([transparent]), encoder.encode_images([Image.new("RGB", (20, 20), "white")])
    )


@pytest.mark.parametrize("user", USERS)
def test_a_release_of_apple_is_first_to_be_converted(user, tmp_path):
    write_release(tmp_path)
    with pytest.raises(ValueError, match=r"first converted: python -m modeling_mofi\.hub\.convert_apple"):
        user(str(tmp_path))


@pytest.mark.parametrize("user", USERS)
def test_pickled_weights_are_refused_in_words(user, tmp_path):
    write_clip(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no weights in safetensors \(only pytorch_model\.bin, and pickles"):
        user(str(tmp_path))


@pytest.mark.parametrize("user", USERS)
def test_damaged_weights_are_refused_in_words(user, tmp_path):
    write_clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:999])
    with pytest.raises(ValueError, match=f"safetensors file of {tmp_path} is damaged"):
        user(str(tmp_path))


@pytest.mark.parametrize("user", USERS)
def test_a_missing_model_is_named(user):
    with pytest.raises((OSError, ValueError), match="me/none is neither a folder with a model nor reachable"):
        user("me/none")


@pytest.mark.parametrize("user", USERS)
def test_every_part_is_of_the_revision_that_the_name_asks_for(user, tmp_path, monkeypatch):
    write_clip(tmp_path)
    asked = []
    for auto_class in ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoProcessor"):
        load = getattr(model_loading, auto_class).from_pretrained

        def from_folder(name, *, revision, load=load, **options):
            asked.append((name, revision))
            return load(tmp_path, **options)

        monkeypatch.setattr(model_loading, auto_class, SimpleNamespace(from_pretrained=from_folder))
    monkeypatch.setattr("evaluation.encoders.fingerprint_model", lambda name: name)
    user("me/clip@v1.0")
    assert asked == [("me/clip", "v1.0")] * 4


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert split_revision(tmp_path / "a@b") == (str(tmp_path / "a@b"), None)


def test_weights_are_loaded_in_the_precision_that_is_asked_for(tmp_path):
    write_clip(tmp_path)
    encoder = MofiEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert encoder.model.dtype == torch.bfloat16 and encoder.encode_images(IMAGES).dtype == torch.float32


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_sixteen_bits(has_bfloat16, dtype, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert default_dtype(torch.device("cuda", 0)) == dtype
    assert default_dtype(torch.device("cpu")) == torch.float32


def test_texts_of_siglip_are_padded_as_siglip_was_trained(tmp_path):
    siglip = write_siglip(tmp_path)
    encoder = MofiEncoder.from_pretrained(tmp_path)
    padding = {"padding": "max_length", "max_length": 8, "truncation": True}
    inputs = encoder.tokenizer(["a flag"], **padding, return_tensors="pt")
    with torch.no_grad():
        expected = siglip.get_text_features(input_ids=inputs.input_ids).pooler_output
    alone, together = encoder.encode("a flag"), encoder.encode(["a flag", "a Red flag of the Green flag"])
    torch.testing.assert_close(alone, torch.nn.functional.normalize(expected, dim=-1))
    torch.testing.assert_close(alone[0], together[0])
