"""Every kind of dual encoder as filter model, with random weights, made in place."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny import make_tiny_config, make_tiny_processor, make_tiny_tokenizer
from tiny_build import NOISE, make_pairs, write_pairs
from tokenizers import Tokenizer, models, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTModel,
)

from data_scripts.build_i2e import main
from data_scripts.images.embed_entities import open_text_embeddings
from data_scripts.images.filter_model import choose_device, embed_images, embed_texts, open_filter_model, prepare_image
from modeling_mofi import MofiModel
from modeling_mofi.hub.convert_apple import convert


TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LENGTH = 12


def letters_tokenizer(**options):
    """One token a letter, with PAD 0, BOS 1 and EOS 2."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "<e>", "<?>", *"abcdefghijklmnopqrstuvwxyz ,"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<?>"))
    template = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 1), ("<e>", 2)])
    tokenizer.post_processor = template
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<e>", "unk_token": "<?>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def write_siglip(folder):
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = TOWER | {"image_size": 16, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    tokenizer = letters_tokenizer(model_max_length=LENGTH, model_input_names=["input_ids"])
    SiglipProcessor(SiglipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)


def write_siglip2(folder):
    """SigLIP 2 with images of any shape (NaFlex), and a tokenizer that knows no limit, as Gemma's."""
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": LENGTH, "projection_size": 16}
    vision = TOWER | {"num_patches": 4, "patch_size": 16}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    image_processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    tokenizer = letters_tokenizer(model_input_names=["input_ids"])
    Siglip2Processor(image_processor, tokenizer).save_pretrained(folder)


def write_mofi(folder):
    MofiModel(make_tiny_config()).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)


def write_apple_layout(folder):
    """CLIP's layout with a tokenizer and without a word on images."""
    text = TOWER | {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config=TOWER | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)


def write_converted(folder):
    write_apple_layout(folder / "release")
    convert(folder / "release", output_dir=folder)


KINDS = {"siglip": write_siglip, "siglip2": write_siglip2, "mofi": write_mofi, "apple, converted": write_converted}


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
    inputs = loaded.processor(images=image, text=text, return_tensors="pt", **limits)
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


def test_a_folder_without_image_settings_is_refused_with_the_way_out(tmp_path):
    write_apple_layout(tmp_path)
    with pytest.raises(ValueError, match="hub.convert_apple"):
        open_filter_model(str(tmp_path))


def test_a_model_without_texts_is_refused(tmp_path):
    ViTModel(ViTConfig(**TOWER, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a ViTModel, which does not embed images and texts in one space"):
        open_filter_model(str(tmp_path))


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_sixteen_bits(has_bfloat16, dtype, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert choose_device() == (torch.device("cuda", 0), dtype)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_similarities_of_the_cpu(filter_model, monkeypatch):
    prepared = [prepare_image(NOISE, filter_model=filter_model)]
    on_gpu = embed_images(prepared, filter_model=filter_model)
    open_filter_model.cache_clear()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    np.testing.assert_allclose(on_gpu, embed_images(prepared, filter_model=filter_model), atol=0.02)
