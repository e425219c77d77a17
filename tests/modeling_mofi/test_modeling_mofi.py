"""The model: equal to CLIP on shared weights, pooled where it should be, and as flexible as transformers' own."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_config
from transformers import AutoModel, AutoModelForImageClassification, BertConfig, CLIPConfig, CLIPModel

from modeling_mofi import (
    MofiConfig,
    MofiForImageClassification,
    MofiModel,
    MofiTextModel,
    MofiTextModelWithProjection,
    MofiVisionModel,
    MofiVisionModelWithProjection,
)


TEXTS = torch.tensor([[0, 7, 9, 2, 1, 1], [0, 8, 2, 1, 1, 1], [0, 3, 4, 5, 6, 2]])
MASK = (TEXTS != 1).long()


def images(num_images=3, size=16):
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return MofiModel(tiny_config).eval()


def clip_folder(folder, *, eos_token_id):
    """A CLIP checkpoint with random weights."""
    torch.manual_seed(1)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": eos_token_id},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    clip = CLIPModel(config).eval()
    clip.save_pretrained(folder)
    return clip


def test_state_dict_equals_clips_in_names_and_shapes(model):
    towers = {name: getattr(model.config, name).to_dict() for name in ("text_config", "vision_config")}
    clip = CLIPModel(CLIPConfig(**towers, projection_dim=model.config.projection_dim))
    shapes = [{name: weight.shape for name, weight in kind.state_dict().items()} for kind in (model, clip)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("eos_token_id", [2, 5])
@torch.no_grad()
def test_clip_checkpoint_gives_clips_outputs(tmp_path, eos_token_id):
    clip = clip_folder(tmp_path, eos_token_id=eos_token_id)
    mofi = MofiModel.from_pretrained(tmp_path).eval()
    input_ids = torch.tensor([[0, 9, 5, 1, 1], [0, 3, 7, 11, 5]])
    inputs = {"input_ids": input_ids, "attention_mask": (input_ids != 1).long(), "pixel_values": images(2)}
    expected, got = clip(**inputs, return_loss=True), mofi(**inputs, return_loss=True)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)


def pooled_position(model, input_ids, attention_mask=None):
    """Index of the token whose state each text got."""
    outputs = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
    projected = model.text_projection(outputs.last_hidden_state)  # [B, L, D]
    return (projected - outputs.pooler_output[:, None]).abs().sum(-1).argmin(-1).tolist()


@torch.no_grad()
def test_text_is_pooled_at_eos_of_id_2_although_other_ids_are_higher(model):
    assert pooled_position(model, TEXTS) == [3, 2, 5]


@torch.no_grad()
def test_text_without_eos_is_pooled_at_its_last_attended_token(model):
    input_ids = torch.tensor([[0, 7, 9, 1, 1], [0, 8, 5, 6, 1]])
    assert pooled_position(model, input_ids, (input_ids != 1).long()) == [2, 3]
    assert pooled_position(model, input_ids[:, :3]) == [2, 2]


@torch.no_grad()
def test_first_eos_counts_where_eos_is_also_the_padding(model):
    assert pooled_position(model, torch.tensor([[0, 7, 2, 2, 2], [0, 7, 8, 9, 2]])) == [2, 4]


@torch.no_grad()
def test_first_token_is_no_eos_where_bos_has_the_same_id(model):
    model.config.text_config.bos_token_id = 2
    input_ids = torch.tensor([[2, 7, 8, 2, 1], [2, 7, 1, 1, 1]])
    assert pooled_position(model, input_ids, (input_ids != 1).long()) == [3, 1]


@torch.no_grad()
def test_argmax_pooling_takes_the_highest_id(model):
    model.config.text_pooling = "argmax"
    assert pooled_position(model, TEXTS) == [2, 1, 4]


@torch.no_grad()
def test_padding_changes_no_text_embedding(model):
    padded = model(input_ids=TEXTS, attention_mask=MASK).text_embeds
    short = model(input_ids=TEXTS[1:2, :3]).text_embeds
    torch.testing.assert_close(padded[1:2], short, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(input_ids=TEXTS).text_embeds, padded, rtol=1e-5, atol=1e-6)


def test_embeddings_have_length_one_and_logits_are_scaled_cosines(model):
    output = model(input_ids=TEXTS[:2], pixel_values=images(3))
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(3))
    cosines = output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, cosines * model.logit_scale.exp())
    assert output.logits_per_text.shape == (2, 3) and output.loss is None


def test_tuple_has_the_order_of_clips(model):
    inputs = {"input_ids": TEXTS, "pixel_values": images()}
    output, as_tuple = model(**inputs), model(**inputs, return_dict=False)
    for place, name in enumerate(("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")):
        torch.testing.assert_close(as_tuple[place], output[name])
    torch.testing.assert_close(model(pixel_values=images())[0], output.image_embeds)


def test_new_model_comes_from_a_configuration_alone(tiny_config):
    assert type(AutoModel.from_config(tiny_config)) is MofiModel


def test_model_without_inputs_says_what_it_needs(model):
    with pytest.raises(ValueError, match="neither input_ids nor pixel_values"):
        model()


@torch.no_grad()
def test_sdpa_equals_eager_attention(model, tmp_path):
    model.save_pretrained(tmp_path)
    inputs = {"input_ids": TEXTS, "attention_mask": MASK, "pixel_values": images()}
    eager, sdpa = (
        MofiModel.from_pretrained(tmp_path, attn_implementation=name).eval()(**inputs) for name in ("eager", "sdpa")
    )
    torch.testing.assert_close(eager.logits_per_text, sdpa.logits_per_text, rtol=1e-5, atol=1e-5)


def test_flash_and_flex_attention_are_supported_where_clip_supports_them():
    for name in ("_supports_flash_attn", "_supports_flex_attn", "_supports_sdpa", "_supports_attention_backend"):
        assert getattr(MofiModel, name) is getattr(CLIPModel, name) is True


def test_gradient_checkpointing_gives_the_same_gradients(model):
    def gradients():
        model.zero_grad()
        model(input_ids=TEXTS, pixel_values=images(), return_loss=True).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.train()
    plain = gradients()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(), plain, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_hidden_states_and_attentions_are_returned_on_request(model):
    output = model(input_ids=TEXTS, pixel_values=images(), output_hidden_states=True, output_attentions=True)
    assert [len(tower.hidden_states) for tower in (output.vision_model_output, output.text_model_output)] == [2, 2]
    assert output.text_model_output.attentions[0].shape == (3, 2, 6, 6)
    assert output.vision_model_output.attentions[0].shape == (3, 2, 5, 5)


@torch.no_grad()
def test_other_image_sizes_need_interpolated_positions(model):
    assert model(pixel_values=images(size=32), interpolate_pos_encoding=True).image_embeds.shape == (3, 16)
    with pytest.raises(ValueError, match="doesn't match model"):
        model(pixel_values=images(size=32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close_to_single(model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = MofiModel.from_pretrained(tmp_path, dtype=dtype).eval()
    embeds = half(pixel_values=images().to(dtype), input_ids=TEXTS).image_embeds
    assert embeds.dtype == dtype
    assert (embeds.float() * model(pixel_values=images()).image_embeds).sum(-1).min() > 0.99


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
@torch.no_grad()
def test_device_map_gives_the_same_embeddings(model, tmp_path, device_map):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path)
    mapped = MofiModel.from_pretrained(tmp_path, device_map=device_map).eval()
    torch.testing.assert_close(mapped(pixel_values=images()).image_embeds, model(pixel_values=images()).image_embeds)


@torch.no_grad()
def test_saved_model_comes_back_equal(model, tmp_path):
    model.save_pretrained(tmp_path)
    inputs = {"input_ids": TEXTS, "attention_mask": MASK, "pixel_values": images()}
    before, after = model(**inputs), AutoModel.from_pretrained(tmp_path).eval()(**inputs)
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


@torch.no_grad()
def test_towers_alone_give_what_the_whole_model_gives(model, tmp_path):
    model.save_pretrained(tmp_path)
    whole = model(input_ids=TEXTS, attention_mask=MASK, pixel_values=images())
    vision, text = (
        kind.from_pretrained(tmp_path).eval() for kind in (MofiVisionModelWithProjection, MofiTextModelWithProjection)
    )
    torch.testing.assert_close(vision(pixel_values=images()).image_embeds, whole.image_embeds)
    torch.testing.assert_close(text(input_ids=TEXTS, attention_mask=MASK).text_embeds, whole.text_embeds)
    pooled = MofiVisionModel.from_pretrained(tmp_path).eval()(images()).pooler_output
    torch.testing.assert_close(model.visual_projection(pooled), whole.vision_model_output.pooler_output)
    pooled = MofiTextModel.from_pretrained(tmp_path).eval()(TEXTS, MASK).pooler_output
    torch.testing.assert_close(model.text_projection(pooled), whole.text_model_output.pooler_output)


@pytest.mark.parametrize("kind", [MofiVisionModel, MofiTextModel, MofiVisionModelWithProjection])
def test_saved_tower_is_loaded_as_itself(model, tmp_path, kind):
    model.save_pretrained(tmp_path / "whole")
    kind.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "tower")
    loaded, report = AutoModel.from_pretrained(tmp_path / "tower", output_loading_info=True)
    assert type(loaded) is kind and not report["missing_keys"] and not report["unexpected_keys"]


def test_classifier_starts_from_the_vision_tower_and_learns(model, tmp_path):
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3)
    assert type(classifier) is MofiForImageClassification
    torch.testing.assert_close(classifier.vision_model.state_dict(), model.vision_model.state_dict())
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        output = classifier(pixel_values=images(), labels=torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert output.logits.shape == (3, 3) and losses[-1] < losses[0] / 2


def test_position_ids_of_old_clip_checkpoints_are_ignored(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert not MofiModel.from_pretrained(tmp_path, output_loading_info=True)[1]["unexpected_keys"]


def test_pickled_weights_are_not_opened_unless_asked_for(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\).*use_safetensors=False"):
        MofiModel.from_pretrained(tmp_path)
    loaded = MofiModel.from_pretrained(tmp_path, use_safetensors=False)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())


def test_another_models_checkpoint_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of a 'bert' model"):
        MofiModel.from_pretrained(tmp_path)


def test_truncated_weights_are_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="safetensors file of .* is damaged or incomplete"):
        MofiModel.from_pretrained(tmp_path)


def test_initial_weights_follow_the_initializer_factor(tiny_config):
    tiny_config.initializer_factor = 1e-6
    model = MofiModel(MofiConfig.from_dict(tiny_config.to_dict()))
    assert model.visual_projection.weight.abs().max() < 1e-5
    assert model.logit_scale.item() == pytest.approx(2.6592)


def test_a_loss_without_texts_is_refused_and_images_alone_have_a_pooled_output():
    model = MofiModel(make_tiny_config()).eval()
    pixels = torch.zeros(2, 3, 16, 16)
    for inputs in ({"pixel_values": pixels}, {"input_ids": torch.tensor([[0, 4, 2]])}):
        with pytest.raises(ValueError, match="give input_ids and pixel_values"):
            model(**inputs, return_loss=True)
    output = model(pixel_values=pixels)
    assert output["pooler_output"] is output.image_embeds
    assert "pooler_output" not in model(pixel_values=pixels, input_ids=torch.tensor([[0, 4, 2]] * 2))
