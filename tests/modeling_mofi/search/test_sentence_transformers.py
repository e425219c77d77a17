"""sentence-transformers takes a MOFI checkpoint as it is, for images and for texts."""

import pytest
import torch
from PIL import Image
from tiny import make_tiny_config, make_tiny_processor

from modeling_mofi import MofiModel
from modeling_mofi.search.encoder import MofiEncoder


def test_sentence_transformers_embeds_images_and_texts_as_the_model_does(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    MofiModel(make_tiny_config()).save_pretrained(tmp_path)
    make_tiny_processor().save_pretrained(tmp_path)
    encoder = MofiEncoder.from_pretrained(tmp_path)
    images, texts = [Image.new("RGB", (20, 30), "red"), Image.new("L", (30, 20), 90)], ["a Red flag", "Blue"]
    found = sentence_transformers.SentenceTransformer(str(tmp_path))
    options = {"normalize_embeddings": True, "convert_to_tensor": True, "show_progress_bar": False}
    torch.testing.assert_close(found.encode(images, **options).cpu(), encoder.encode_images(images))
    torch.testing.assert_close(found.encode(texts, **options).cpu(), encoder.encode_texts(texts))
