"""Every kind of dual encoder as filter model, with random weights, made in place."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_build import NOISE, make_pairs, write_pairs
from tiny_dual_encoders import KINDS
from transformers import AutoProcessor, ViTConfig, ViTModel

from data_scripts.build_i2e import main
from data_scripts.images.embed_entities import open_text_embeddings
from data_scripts.images.filter_model import choose_device, embed_images, embed_texts, open_filter_model, prepare_image


@pytest.fixture(params=KINDS)
def filter_model(request, tmp_path):
    torch.manual_seed(0)
    KINDS[request.param](tmp_path / "model")
    yield str(tmp_path / "model")
    open_filter_model.cache_clear()


@torch.inference_mode()
def naive_cosine(folder, image, text):
    """Both inputs through processor and model as the library's documentation does it."""
    loaded = open_filter_model(folder)
    padding = "max_length" if "siglip" in loaded.model.config.model_type else True
    limits = {
        "padding": padding,
        "truncation": True,
        "max_length": loaded.model.config.text_config.max_position_embeddings,
    }
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=image, text=text, return_tensors="pt", **limits)
    outputs = loaded.model(**inputs)
    cosine = torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
    return cosine.item()


def test_stored_similarities_are_the_models_own(filter_model, recipe, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.parquet", make_pairs(12))
    template = "{name}, {description}"
    main(recipe(pairs=pairs, filter_model=filter_model, entity_template=template, image_size=64))
    open_text_embeddings.cache_clear()
    rows = pq.read_table(tmp_path / "i2e" / "stages" / "score_entities" / "000000.parquet").to_pylist()
    octopus = next(row for row in rows if row["alt_text"] == "1F419_octopus.svg")
    image = Image.open(io.BytesIO(octopus["image"]["bytes"]))
    expected = naive_cosine(filter_model, image, "octopus, sea animal with eight arms")
    assert octopus["candidates"][0]["similarity"] == pytest.approx(expected, abs=1e-5)


def test_an_embedding_is_of_unit_length_and_does_not_depend_on_the_others(filter_model):
    images = [NOISE, NOISE.resize((40, 90)), Image.new("RGB", (30, 30), "red")]
    prepared = [prepare_image(image, filter_model=filter_model) for image in images]
    together = embed_images(prepared, filter_model=filter_model)
    alone = np.concatenate([embed_images([one], filter_model=filter_model) for one in prepared])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_text_is_cut_at_the_models_length_and_padded_as_the_model_wants(filter_model):
    texts = ["a flag", "a flag of the red " * 30]
    together = embed_texts(texts, filter_model=filter_model)
    alone = np.concatenate([embed_texts([text], filter_model=filter_model) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_model_without_texts_is_refused(tmp_path):
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a ViTModel, which does not embed images and texts in one space"):
        open_filter_model(str(tmp_path))


@pytest.mark.parametrize(("worker", "device"), [("0", 0), ("1", 1), ("2", 0)])
def test_each_worker_takes_the_next_gpu(worker, device, monkeypatch):
    monkeypatch.setenv("MOFI_WORKER_INDEX", worker)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    assert choose_device() == torch.device("cuda", device)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_similarities_of_the_cpu(filter_model, monkeypatch):
    prepared = [prepare_image(NOISE, filter_model=filter_model)]
    on_gpu = embed_images(prepared, filter_model=filter_model)
    open_filter_model.cache_clear()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    np.testing.assert_allclose(on_gpu, embed_images(prepared, filter_model=filter_model), atol=0.02)
