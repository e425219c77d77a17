"""Where a run's model, processor and first head rows come from."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_config, make_tiny_processor, write_entities
from tiny_towers import write_image_tower, write_text_tower
from tokenizers import processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from modeling_mofi import MofiConfig, MofiForPreTraining, MofiModel
from modeling_mofi.data.entity_table import EntityTable
from modeling_mofi.training.arguments import MofiTrainingArguments
from modeling_mofi.training.entity_initialization import embed_entities, initialize_rows
from modeling_mofi.training.model_building import ModelArguments, build_model, load_processor
from modeling_mofi.training.model_preparation import prepare_model
from modeling_mofi.training.processor_building import ending_with_eos


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
    inputs = processor(text=["Green, a color"], return_tensors="pt")
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
    assert tokenizer("a flag of the color", truncation=True)["input_ids"] == [8, 10, 11, 2]


def test_a_tokenizer_that_ends_with_eos_stays_as_it_is(tiny_tokenizer):
    assert ending_with_eos(tiny_tokenizer, context=None)("a flag")["input_ids"] == [0, 8, 10, 2]


def test_a_recipe_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match="in none of tokenizer_name, text_init_from and init_from"):
        load_processor(ModelArguments())


def test_sizes_beside_a_checkpoint_are_refused(checkpoint):
    with pytest.raises(ValueError, match="init_from has its own. Give one"):
        ModelArguments(init_from=str(checkpoint), vision_config={"hidden_size": 8})
    with pytest.raises(ValueError, match="entity_init is 'zero'; it must be one of random, text"):
        ModelArguments(entity_init="zero")


def test_contrast_is_the_checkpoints_or_the_settings(checkpoint, tmp_path):
    model_args = ModelArguments(init_from=str(checkpoint))
    processor, args = load_processor(model_args), make_args(tmp_path, contrast="sigmoid", same_entity="positive")
    model = build_model(model_args, processor, args, num_entities=4)
    assert (model.config.contrast, model.mofi.logit_bias) == ("softmax", None)
    prepare_model(model, args)
    assert (model.config.contrast, model.same_entity) == ("sigmoid", "positive")
    model.save_pretrained(tmp_path / "again")
    loaded = MofiForPreTraining.from_pretrained(tmp_path / "again")
    assert loaded.mofi.logit_bias.tolist() == [-10.0] and loaded.mofi.logit_scale.shape == (1,)


def test_an_encoder_alone_is_not_taken_for_a_whole_model(tmp_path):
    write_image_tower(tmp_path / "dinov2", "dinov2")
    with pytest.raises(ValueError, match="of a 'dinov2' model.*see MofiModel.from_towers"):
        MofiForPreTraining.from_pretrained(tmp_path / "dinov2")
    assert load_processor(ModelArguments(init_from=str(tmp_path / "dinov2"))).tokenizer is None


def test_towers_are_joined_by_new_projections(tmp_path):
    image_tower, text_tower = write_image_tower(tmp_path / "i", "dinov2"), write_text_tower(tmp_path / "t", "bert")
    model = MofiModel.from_towers(str(tmp_path / "i"), str(tmp_path / "t"), projection_dim=6).eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    input_ids = torch.tensor([[0, 4, 2], [0, 5, 2]])
    pooled = image_tower(pixel_values=pixels).pooler_output
    torch.testing.assert_close(
        model.get_image_features(pixels).pooler_output, model.visual_projection(pooled), rtol=1e-4, atol=1e-5
    )
    states = text_tower(input_ids=input_ids, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])).last_hidden_state
    mean = torch.stack([states[0].mean(dim=0), states[1, :2].mean(dim=0)])
    found = model.get_text_features(input_ids, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])).pooler_output
    torch.testing.assert_close(found, model.text_projection(mean), rtol=1e-4, atol=1e-5)


def test_what_an_image_tower_cannot_do_is_refused_by_name(tmp_path):
    config = MofiConfig(vision_config={"model_type": "aimv2_vision_model", "num_hidden_layers": 1, "hidden_size": 8})
    model = SimpleNamespace(config=config)
    with pytest.raises(ValueError, match="type 'aimv2_vision_model' needs all patches"):
        prepare_model(model, make_args(tmp_path, patch_dropout_schedule={0: 0.5}))
    with pytest.raises(ValueError, match="type 'aimv2_vision_model' takes images of 224 pixels only"):
        prepare_model(model, make_args(tmp_path, image_size_schedule={0: 112}))


def test_an_image_tower_without_pooling_is_refused_by_name():
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = MofiConfig(vision_config={"model_type": "ijepa", **sizes, "image_size": 16, "patch_size": 8})
    with pytest.raises(ValueError, match="type 'ijepa' gives no pooler_output"):
        MofiModel(config)(pixel_values=torch.zeros(1, 3, 16, 16))


def test_identity_projections_need_features_of_the_embeddings_size(tiny_config):
    tiny_config.has_projections, tiny_config.projection_dim = False, 12
    with pytest.raises(ValueError, match="'clip_vision_model' gives features of size 16 and projection_dim is 12"):
        MofiModel(tiny_config)
