"""The processor: texts end with EOS and are padded on the right, entities become texts."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_mofi import MofiImageProcessor, MofiProcessor


def test_batch_is_padded_on_the_right_without_being_asked(tiny_processor):
    batch = tiny_processor(text=["Red", "a flag of Blue"], return_tensors="pt")
    assert batch["input_ids"][0].tolist() == [0, 4, 2, 1, 1, 1]
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 0, 0, 0]


def test_long_text_is_cut_off_and_keeps_its_eos(tiny_processor):
    ids = tiny_processor(text="a flag of a flag of a flag of a flag", return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 8) and ids[0, 0] == 0 and ids[0, -1] == 2


def test_tokenizer_that_pads_on_the_left_is_set_right(tiny_tokenizer):
    tiny_tokenizer.padding_side = tiny_tokenizer.truncation_side = "left"
    ids = MofiProcessor(MofiImageProcessor(), tiny_tokenizer)(text=["Red", "a Red flag"])["input_ids"]
    assert ids[0][-1] == 1 and ids[0][0] == 0


def test_images_and_texts_come_in_one_batch(tiny_processor):
    batch = tiny_processor(images=[Image.new("RGB", (30, 20))] * 2, text=["Red"], return_tensors="pt")
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "pixel_values": (2, 3, 16, 16),
        "input_ids": (1, 3),
        "attention_mask": (1, 3),
    }


@pytest.mark.parametrize(
    ("name", "description", "text"),
    [("Red", "a color", "Red, a color"), ("Red", None, "Red"), ("Red", "", "Red")],
)
def test_entity_becomes_name_and_description(name, description, text):
    assert MofiProcessor.entity_text(name, description) == text


def test_entities_are_tokenized_like_their_texts(tiny_processor):
    entities = tiny_processor.encode_entities(["Red", "Blue"], ["a color", None])
    texts = tiny_processor(text=["Red, a color", "Blue"], return_tensors="pt")
    assert torch.equal(entities["input_ids"], texts["input_ids"])
    with pytest.raises(ValueError):
        tiny_processor.encode_entities(["Red", "Blue"], ["a color"])


def test_saved_processor_comes_back_equal(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    inputs = {"images": Image.new("RGB", (30, 20), "red"), "text": ["a Red flag"], "return_tensors": "pt"}
    before, after = tiny_processor(**inputs), loaded(**inputs)
    assert type(loaded) is MofiProcessor and all(torch.equal(before[name], after[name]) for name in before)


def test_missing_tokenizer_is_named(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        AutoProcessor.from_pretrained(tmp_path)
