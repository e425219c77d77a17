"""Margin softmax over entities, in chunks of images and over processes that share the entities among them."""

import torch
import torch.nn.functional as F

from .distributed_mofi import all_reduce, process_place


ROWS_PER_BLOCK = 2**13


def margin_softmax_loss(
    image_embeds: torch.Tensor,
    rows: torch.Tensor,
    target_columns: torch.Tensor,
    *,
    weights: torch.Tensor,
    scale: float,
    margin: float,
    own: slice = slice(None),
    chunk_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine softmax with an additive margin (CosFace) over class rows that processes share among them.

    Each process passes all N embeddings and its own part of the class rows; the normaliser is reduced over processes.
    Logits are computed in chunks of images, never held whole, and once: the gradient is made of them on the spot, for
    which the weights must be known. Backward only scales it, by one number that is the same on every process.

    Args:
        image_embeds: Unit-length `[N, D]`, the same on every process.
        rows: `[S, D]`, this process's classes; only their directions count.
        target_columns: `[N]`, index in `rows` of each image's class, or -1 where another process owns it.
        weights: `[N]`, how much each image counts, the same on every process.
        scale: Inverse temperature.
        margin: Subtracted from the target's cosine.
        own: This process's images.
        chunk_size: Images whose logits are held at once, the same on every process; None for all.

    Returns:
        Weighted sum of the losses of own images, a scalar whose mean over processes has the gradient of all images;
        and the loss of each image, `[N]`, the same on every process and without a gradient.

    Source: CosFace (https://arxiv.org/abs/1801.09414); that MOFI used this form is inferred from its code base.
    Making the gradient in forward is Liger Kernel's way (https://arxiv.org/abs/2410.10989).
    """
    chunk_size = len(image_embeds) if chunk_size is None else chunk_size
    with torch.autocast(image_embeds.device.type, enabled=False):
        tensors = image_embeds.float(), rows.float(), target_columns, weights.float()
        return _MarginSoftmax.apply(*tensors, own, scale, margin, max(1, chunk_size), torch.is_grad_enabled())


class _MarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeds, rows, target_columns, weights, own, scale, margin, chunk_size, with_gradient):
        for_embeds, for_rows = (needed and with_gradient for needed in ctx.needs_input_grad[:2])
        embeds_gradient = torch.zeros_like(embeds) if for_embeds else None
        rows_gradient = torch.zeros_like(rows) if for_rows else None
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12)  # [S, 1]
        rows = rows / norms
        losses = embeds.new_zeros(len(embeds))
        for start in range(0, len(embeds), chunk_size):
            chunk = slice(start, start + chunk_size)
            images = embeds[chunk] * scale
            logits = images @ rows.t()  # [chunk, S]
            losses[chunk] = _losses_to_gradient_(logits, target_columns[chunk], weights[chunk], scale * margin)
            if for_embeds:
                torch.mm(logits, rows, out=embeds_gradient[chunk])
            if for_rows:
                rows_gradient.addmm_(logits.t(), images)
        if for_embeds:
            embeds_gradient *= scale
        if for_rows:
            # No wrapper averages the rows' gradient over processes as it does the towers'; this does.
            _to_gradient_by_length_(rows_gradient, rows, norms * process_place()[1])
        ctx.save_for_backward(embeds_gradient, rows_gradient)
        ctx.mark_non_differentiable(losses)
        return (losses * weights)[own].sum(), losses

    @staticmethod
    def backward(ctx, gradient, _):
        # In place: as large as the rows. PyTorch refuses a second backward, as it finds them changed.
        gradients = (None if found is None else found.mul_(gradient) for found in ctx.saved_tensors)
        return *gradients, None, None, None, None, None, None, None


def _to_gradient_by_length_(gradient: torch.Tensor, unit_rows: torch.Tensor, divisors: torch.Tensor) -> None:
    """Turns the gradient by unit rows in place into that by rows of any length, `divisors` `[S, 1]` long.

    In blocks, without a copy of all rows; autograd's own way through the division takes longer than the products.
    """
    for block in zip(*(tensor.split(ROWS_PER_BLOCK) for tensor in (gradient, unit_rows, divisors)), strict=True):
        part, rows, divisor = block
        part.sub_(rows * (rows * part).sum(dim=1, keepdim=True)).div_(divisor)


def _losses_to_gradient_(
    logits: torch.Tensor, target_columns: torch.Tensor, weights: torch.Tensor, logit_margin: float
) -> torch.Tensor:
    """Turns logits `[chunk, S]` in place into the gradient of the weighted losses by them; returns the losses."""
    owned = (target_columns >= 0).nonzero().squeeze(1)
    places = owned, target_columns[owned]
    targets = logits.new_zeros(len(logits))
    targets[owned] = logits[places] - logit_margin
    # The target is masked out and added again by softplus: correcting a full log-sum-exp overflows in fp32.
    logits[places] = -torch.inf
    maxima = _row_max(logits)
    global_maxima = all_reduce(maxima.clone(), "MAX")
    sums = logits.sub_(maxima[:, None]).exp_().sum(dim=1) * (maxima - global_maxima).exp()
    sums, targets = all_reduce(torch.stack([sums, targets]), "SUM")
    negatives = global_maxima + sums.log()
    normalisers = torch.logaddexp(negatives, targets)
    # What was exponentiated for the sum needs only a factor to become a probability.
    logits.mul_(((maxima - normalisers).exp() * weights)[:, None])
    # A sigmoid of the difference keeps the digits of p - 1 where p is close to 1.
    logits[places] = (-torch.sigmoid(negatives - targets) * weights)[owned]
    return F.softplus(negatives - targets)


def _row_max(logits: torch.Tensor) -> torch.Tensor:
    """Largest logit per row, finite also where a row has no negative on this process."""
    lowest = torch.finfo(logits.dtype).min / 2
    return logits.amax(dim=1).clamp(min=lowest) if logits.shape[1] else logits.new_full(logits.shape[:1], lowest)
