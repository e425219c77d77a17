"""The margin softmax in one process, against references in float64; `test_distributed.py` has several processes."""

import pytest
import torch
import torch.nn.functional as F

from modeling_mofi.margin_softmax import margin_softmax_loss


def unit_rows(*shape, seed=0, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def reference_margin_softmax(embeds, rows, labels, scale, margin):
    """Loss per row in float64, straight from the definition."""
    logits = embeds.double() @ F.normalize(rows.double(), dim=-1).t()
    return F.cross_entropy(scale * (logits - margin * F.one_hot(labels, len(rows))), labels, reduction="none")


def fitted_batch(*, gap, dtype=torch.float32):
    """Twelve unit embeddings that lie near their class's row (nearer for smaller `gap`), among 40 rows."""
    rows, labels = unit_rows(40, 16), torch.arange(12) * 3
    embeds = F.normalize(rows[labels] + gap * unit_rows(12, 16, seed=1), dim=-1)
    return embeds.to(dtype), rows.to(dtype), labels


def margin_gradients(embeds, rows, labels, *, scale, margin, chunk_size=None, precision=None):
    embeds, rows = embeds.clone().requires_grad_(), rows.clone().requires_grad_()
    weights = torch.full((len(embeds),), 1 / len(embeds))
    settings = {"weights": weights, "scale": scale, "margin": margin, "chunk_size": chunk_size, "precision": precision}
    loss, losses = margin_softmax_loss(embeds, rows, labels, **settings)
    torch.testing.assert_close(loss, losses.mean())
    return losses, *torch.autograd.grad(loss, (embeds, rows))


def test_chunks_of_rows_change_neither_margin_softmax_nor_gradient():
    batch = fitted_batch(gap=1.0)
    chunked = margin_gradients(*batch, scale=16.0, margin=0.2, chunk_size=5)
    whole = margin_gradients(*batch, scale=16.0, margin=0.2)
    for one, other in zip(chunked, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# A gap of 0.05 puts every embedding next to its row: p is 1 to 13 digits, where corrected normalisers overflow.
@pytest.mark.parametrize("gap", [2.0, 0.5, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_margin_softmax_at_scale_64_equals_float64(gap, dtype, margin):
    embeds, rows, labels = fitted_batch(gap=gap, dtype=dtype)
    losses, *gradients = margin_gradients(embeds, rows, labels, scale=64.0, margin=margin, chunk_size=5)
    exact_embeds, exact_rows = embeds.double().requires_grad_(), rows.double().requires_grad_()
    expected = reference_margin_softmax(exact_embeds, exact_rows, labels, 64.0, margin)
    exact_gradients = torch.autograd.grad(expected.mean(), (exact_embeds, exact_rows))
    # Float64 itself has no digits left of a loss below 1e-12.
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-4, atol=1e-12)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        rounding = 1e-4 if dtype is torch.float32 else 2**-8  # bf16 gradients have 8 digits.
        torch.testing.assert_close(gradient.double(), exact, rtol=rounding, atol=1e-4 * exact.abs().max().item())


def test_a_single_class_has_no_loss_and_no_gradient():
    embeds, row = unit_rows(3, 8), unit_rows(1, 8, seed=1)
    losses, embeds_gradient, rows_gradient = margin_gradients(
        embeds, row, torch.zeros(3, dtype=torch.long), scale=64.0, margin=0.3
    )
    assert losses.tolist() == [0, 0, 0]
    assert not embeds_gradient.any()
    assert not rows_gradient.any()


@pytest.mark.parametrize("length", [0.1, 1.0, 7.0])
def test_margin_softmax_gradients_follow_weights_lengths_and_what_is_done_with_the_loss(length, monkeypatch):
    monkeypatch.setattr("modeling_mofi.margin_softmax.ROWS_PER_BLOCK", 6)
    embeds, rows, labels = fitted_batch(gap=1.0)
    embeds, rows, weights = embeds.requires_grad_(), (rows * length).requires_grad_(), torch.linspace(0, 2, 12)
    loss, _ = margin_softmax_loss(embeds, rows, labels, weights=weights, scale=16.0, margin=0.2, chunk_size=7)
    expected = (reference_margin_softmax(embeds, rows, labels, 16.0, 0.2) * weights).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for tensor in (embeds, rows):
        (gradient,) = torch.autograd.grad(0.3 * expected, tensor, retain_graph=True)
        tensor.wanted = gradient
    (0.3 * loss).backward()
    for tensor in (embeds, rows):
        torch.testing.assert_close(tensor.grad, tensor.wanted, rtol=1e-4, atol=1e-6)


def test_no_gradient_is_made_where_none_is_asked_for():
    embeds, rows, labels = fitted_batch(gap=1.0)
    settings = {"weights": torch.ones(len(embeds)), "scale": 16.0, "margin": 0.2}
    with torch.no_grad():
        assert not margin_softmax_loss(embeds.requires_grad_(), rows, labels, **settings)[0].requires_grad
    loss, _ = margin_softmax_loss(embeds, rows, labels, **settings)
    loss.backward()
    assert (embeds.grad is not None, rows.grad) == (True, None)


def test_a_second_backward_is_refused_instead_of_being_wrong():
    embeds, rows, labels = fitted_batch(gap=1.0)
    settings = {"weights": torch.ones(len(embeds)), "scale": 16.0, "margin": 0.2}
    loss, _ = margin_softmax_loss(embeds.requires_grad_(), rows, labels, **settings)
    (0.5 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autocast_does_not_lower_the_losses_precision():
    batch, settings = fitted_batch(gap=1.0), {"scale": 64.0, "margin": 0.1}
    plain = margin_gradients(*batch, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(margin_gradients(*batch, **settings), plain, rtol=0, atol=0)


# Nearer and nearer to the row of the class: p from 1 in 2,000 to 1 but for 1e-8.
@pytest.mark.parametrize("gap", [16.0, 2.0, 1.0, 0.5, 0.1, 0.02])
def test_products_of_bf16_keep_loss_and_gradients(gap):
    rows, labels = unit_rows(2000, 512), torch.arange(64)
    embeds = F.normalize(rows[labels] + gap * unit_rows(64, 512, seed=1), dim=-1)
    exact, *gradients = margin_gradients(embeds, rows, labels, scale=32.0, margin=0.15)
    losses, *found = margin_gradients(embeds, rows, labels, scale=32.0, margin=0.15, precision="bf16", chunk_size=24)
    assert not torch.equal(losses, exact)
    assert abs(losses.mean() - exact.mean()) < 2e-3
    for gradient, expected in zip(found, gradients, strict=True):
        assert (gradient - expected).norm() < 1e-2 * expected.norm()
