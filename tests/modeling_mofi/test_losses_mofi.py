"""Contrast in one process, against references; `test_distributed.py` has several processes."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from modeling_mofi.losses_mofi import contrastive_loss


def unit_rows(*shape, seed=0, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def test_contrastive_loss_is_clips_own():
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 8},
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    pixels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = model(input_ids=torch.arange(40).view(5, 8) % 20, pixel_values=pixels, return_loss=True)
    loss = contrastive_loss(outputs.image_embeds, outputs.text_embeds, logit_scale=model.logit_scale.exp())
    torch.testing.assert_close(loss, outputs.loss)


def test_images_of_one_entity_are_no_negatives_of_one_another():
    images, texts, labels = unit_rows(4, 8), unit_rows(4, 8, seed=1), torch.tensor([7, 3, 7, -1])
    logits = 10 * images @ texts.t()
    logits[0, 2] = logits[2, 0] = -torch.inf
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.t(), torch.arange(4))) / 2
    loss = contrastive_loss(images, texts, logit_scale=torch.tensor(10.0), entity_labels=labels)
    torch.testing.assert_close(loss, expected)


def test_images_without_entity_stay_negatives_of_one_another():
    images, texts = unit_rows(4, 8), unit_rows(4, 8, seed=1)
    plain = contrastive_loss(images, texts, logit_scale=torch.tensor(10.0))
    unlabeled = contrastive_loss(images, texts, logit_scale=torch.tensor(10.0), entity_labels=torch.full((4,), -1))
    torch.testing.assert_close(unlabeled, plain, rtol=0, atol=0)


def test_sigmoid_loss_is_siglips_own():
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 8},
    )
    model = SiglipModel(config).eval()
    pixels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = model(input_ids=torch.arange(40).view(5, 8) % 20, pixel_values=pixels, return_loss=True)
    settings = {"logit_scale": model.logit_scale.exp(), "logit_bias": model.logit_bias}
    torch.testing.assert_close(contrastive_loss(outputs.image_embeds, outputs.text_embeds, **settings), outputs.loss)


LABELS = torch.tensor([7, 3, 7, -1, -1])


def pair_losses(images, texts, *, bias):
    """Loss of each image and text as a positive and as a negative pair, `[5, 5]` each."""
    logits = 10 * images @ texts.t() + bias
    return -F.logsigmoid(logits), -F.logsigmoid(-logits)


@pytest.mark.parametrize(("same_entity", "positives"), [("left_out", 5), ("positive", 7), ("negative", 5)])
def test_sigmoid_pairs_of_one_entity_are_what_the_setting_says(same_entity, positives):
    images, texts = unit_rows(5, 8), unit_rows(5, 8, seed=1)
    as_positive, as_negative = pair_losses(images, texts, bias=-3.0)
    is_pair = torch.eye(5, dtype=torch.bool)
    is_same = torch.zeros(5, 5, dtype=torch.bool)
    is_same[0, 2] = is_same[2, 0] = True
    is_positive = is_pair | is_same if same_entity == "positive" else is_pair
    expected = as_negative.where(~is_positive, as_positive)
    expected = expected.where(~is_same, 0.0) if same_entity == "left_out" else expected
    settings = {"logit_bias": torch.tensor([-3.0]), "entity_labels": LABELS, "same_entity": same_entity}
    loss = contrastive_loss(images, texts, logit_scale=torch.tensor(10.0), **settings)
    torch.testing.assert_close(loss, expected.sum() / 5)
    assert is_positive.sum() == positives


def test_softmax_shares_the_target_among_texts_of_one_entity_as_unicl_does():
    images, texts = unit_rows(5, 8), unit_rows(5, 8, seed=1)
    logits = 10 * images @ texts.t()
    targets = torch.eye(5)
    targets[0, [0, 2]] = targets[2, [0, 2]] = 0.5
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2
    settings = {"logit_scale": torch.tensor(10.0), "entity_labels": LABELS}
    torch.testing.assert_close(contrastive_loss(images, texts, same_entity="positive", **settings), expected)
    plain = contrastive_loss(images, texts, logit_scale=torch.tensor(10.0))
    torch.testing.assert_close(contrastive_loss(images, texts, same_entity="negative", **settings), plain)


def test_an_unknown_role_of_one_entity_is_refused():
    with pytest.raises(ValueError, match="same_entity is 'mask'; it must be one of left_out, positive, negative"):
        contrastive_loss(unit_rows(2, 8), unit_rows(2, 8), logit_scale=torch.tensor(1.0), same_entity="mask")


def contrastive_gradients(max_logits, *, bias, same_entity):
    images, texts = unit_rows(7, 8).requires_grad_(), unit_rows(7, 8, seed=1).requires_grad_()
    scale, labels = torch.tensor(20.0, requires_grad=True), torch.tensor([0, 1, 2, 0, 4, 5, 1])
    bias = [] if bias is None else [torch.tensor([bias], requires_grad=True)]
    settings = {"logit_bias": bias[0] if bias else None, "entity_labels": labels, "same_entity": same_entity}
    loss = contrastive_loss(images, texts, logit_scale=scale, max_logits=max_logits, **settings)
    return loss, *torch.autograd.grad(loss, (images, texts, scale, *bias))


@pytest.mark.parametrize("same_entity", ["left_out", "positive"])
@pytest.mark.parametrize("bias", [None, -2.0])
def test_chunks_of_rows_change_neither_contrastive_loss_nor_gradient(bias, same_entity):
    chunked, whole = (contrastive_gradients(size, bias=bias, same_entity=same_entity) for size in (14, 2**20))
    for one, other in zip(chunked, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_lower_the_losss_precision():
    images, texts = unit_rows(6, 16), unit_rows(6, 16, seed=1)
    plain = contrastive_loss(images, texts, logit_scale=torch.tensor(50.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = contrastive_loss(images, texts, logit_scale=torch.tensor(50.0))
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
