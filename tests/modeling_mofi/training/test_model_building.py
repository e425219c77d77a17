"""Where a run's model, processor and first head rows come from."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_config, make_tiny_processor, write_entities
from tokenizers import processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from modeling_mofi import MofiForPreTraining
from modeling_mofi.data.entity_table import EntityTable
from modeling_mofi.training.arguments import MofiTrainingArguments
from modeling_mofi.training.entity_initialization import embed_entities, initialize_rows
from modeling_mofi.training.model_building import ModelArguments, build_model, ending_with_eos, load_processor


@pytest.fixture
def checkpoint(tmp_path):
    """A trained model of four entities, Q0 to Q3, with processor and entities.parquet."""
    folder = tmp_path / "checkpoint"
    torch.manual_seed(0)
    model = MofiForPreTraining(make_tiny_config(), seed=9)
    model.save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    write_entities(folder / "entities.parquet")
    return folder


def make_args(tmp_path, **settings):
    return MofiTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


def start_from(folder, tmp_path, *, entity_ids, from_texts):
    write_entities(tmp_path / "new.parquet", entity_ids=entity_ids)
    entities, model_args = EntityTable(tmp_path / "new.parquet"), ModelArguments(init_from=str(folder))
    processor = load_processor(model_args)
    model = build_model(model_args, processor, make_args(tmp_path), num_entities=len(entities))
    initialize_rows(model, entities, processor, init_from=folder, from_texts=from_texts)
    return model, entities, processor


def test_known_entities_keep_their_rows_wherever_their_labels_went(checkpoint, tmp_path):
    model, *_ = start_from(checkpoint, tmp_path, entity_ids=("Q3", "Q7", "Q0"), from_texts=False)
    saved = load_file(checkpoint / "entity_head.safetensors")["weight"]
    assert torch.equal(model.entity_head.weight[[0, 2]], saved[[3, 0]])
    torch.testing.assert_close(model.entity_head.weight[1].norm(), torch.tensor(1.0))
    assert not (saved == model.entity_head.weight[1]).all(dim=1).any()


def test_new_entities_begin_as_the_embeddings_of_their_texts(checkpoint, tmp_path):
    model, entities, processor = start_from(checkpoint, tmp_path, entity_ids=("Q3", "Q7", "Q0"), from_texts=True)
    expected = embed_entities(model, entities, processor, [1])[0]
    torch.testing.assert_close(model.entity_head.weight[1], expected)
    torch.testing.assert_close(expected.norm(), torch.tensor(1.0))
    inputs = processor(text=["Green, a colour"], return_tensors="pt")
    torch.testing.assert_close(model.mofi(**inputs).text_embeds[0], expected)


def test_a_head_without_entities_file_is_taken_only_if_its_size_fits(checkpoint, tmp_path):
    (checkpoint / "entities.parquet").unlink()
    saved = load_file(checkpoint / "entity_head.safetensors")["weight"]
    model, *_ = start_from(checkpoint, tmp_path, entity_ids=("Q5", "Q6", "Q7", "Q8"), from_texts=False)
    assert torch.equal(model.entity_head.weight, saved)
    model, *_ = start_from(checkpoint, tmp_path, entity_ids=("Q0", "Q1"), from_texts=False)
    assert not torch.equal(model.entity_head.weight, saved[:2])


def test_towers_start_from_any_clip(tmp_path, tiny_config, tiny_tokenizer):
    clip = CLIPModel(CLIPConfig(**{name: tiny_config.to_dict()[name] for name in ("vision_config", "text_config")}))
    clip.save_pretrained(tmp_path / "clip")
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16, image_mean=[0.1, 0.2, 0.3])
    CLIPProcessor(image_processor, tiny_tokenizer).save_pretrained(tmp_path / "clip")
    model_args = ModelArguments(init_from=str(tmp_path / "clip"))
    processor = load_processor(model_args)
    model = build_model(model_args, processor, make_args(tmp_path), num_entities=7)
    assert model.entity_head.num_entities == 7
    assert all(torch.equal(value, clip.state_dict()[name]) for name, value in model.mofi.state_dict().items())
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.image_processor.antialias


def test_new_towers_take_what_the_tokenizer_decides(tmp_path, checkpoint, tiny_tokenizer):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model_args = ModelArguments(
        tokenizer_name=str(checkpoint), vision_config={**tower, "image_size": 16, "patch_size": 8}, text_config=tower
    )
    model = build_model(model_args, load_processor(model_args), make_args(tmp_path), num_entities=3)
    text = model.config.text_config
    assert (text.vocab_size, text.max_position_embeddings) == (len(tiny_tokenizer), 8)
    assert (text.bos_token_id, text.pad_token_id, text.eos_token_id) == (0, 1, 2)


def test_a_tokenizer_that_begins_with_eos_is_made_to_end_with_it(tiny_tokenizer):
    # OPT's way: `</s>` is both BOS and EOS, and is put first.
    tiny_tokenizer.bos_token = "<eos>"
    tiny_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 2)]
    )
    assert tiny_tokenizer("a flag")["input_ids"] == [2, 8, 10]
    tokenizer = ending_with_eos(tiny_tokenizer, context=4)
    assert tokenizer("a flag")["input_ids"] == [8, 10, 2]
    assert tokenizer("a flag of the colour", truncation=True)["input_ids"] == [8, 10, 11, 2]


def test_a_tokenizer_that_ends_with_eos_stays_as_it_is(tiny_tokenizer):
    assert ending_with_eos(tiny_tokenizer, context=None)("a flag")["input_ids"] == [0, 8, 10, 2]


def test_a_recipe_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match="neither tokenizer_name nor init_from"):
        load_processor(ModelArguments())


def test_sizes_beside_a_checkpoint_are_refused(checkpoint):
    with pytest.raises(ValueError, match="init_from has its own. Give one"):
        ModelArguments(init_from=str(checkpoint), vision_config={"hidden_size": 8})
    with pytest.raises(ValueError, match="entity_init is 'zero'; it must be one of random, text"):
        ModelArguments(entity_init="zero")
