"""Margin softmax over entities, in chunks of images and over processes that share the entities among them."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    precision: str | None = None,
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
        precision: Of what is multiplied, `"fp32"`, `"tf32"` or `"bf16"`; sums, softmax and gradients are in fp32. None
            for fp32, or TF32 where torch allows it.

    Returns:
        Weighted sum of the losses of own images, a scalar whose mean over processes has the gradient of all images;
        and the loss of each image, `[N]`, the same on every process and without a gradient.

    Source: CosFace (https://arxiv.org/abs/1801.09414); that MOFI used this form is inferred from its code base.
    Making the gradient in forward is Liger Kernel's way (https://arxiv.org/abs/2410.10989).
    """
    chunk_size = len(image_embeds) if chunk_size is None else chunk_size
    with torch.autocast(image_embeds.device.type, enabled=False):
        tensors = image_embeds.float(), rows.float(), target_columns, weights.float()
        settings = own, scale, margin, max(1, chunk_size), precision, torch.is_grad_enabled()
        with matmul_precision(precision, image_embeds.device):
            return _MarginSoftmax.apply(*tensors, *settings)


class _MarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeds, rows, target_columns, weights, own, scale, margin, chunk_size, precision, with_gradient):
        for_embeds, for_rows = (needed and with_gradient for needed in ctx.needs_input_grad[:2])
        embeds_gradient = torch.zeros_like(embeds) if for_embeds else None
        rows_gradient = torch.zeros_like(rows) if for_rows else None
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12)  # [S, 1]
        rows = rows / norms
        factors = rows.bfloat16() if precision == "bf16" else rows
        losses = embeds.new_zeros(len(embeds))
        for start in range(0, len(embeds), chunk_size):
            chunk = slice(start, start + chunk_size)
            images = embeds[chunk] * scale
            rounded = images.to(factors.dtype)
            logits = multiply(rounded, factors.t())  # [chunk, S]
            targets = _Targets(target_columns[chunk], rows) if precision == "bf16" and len(rows) else None
            if targets is not None:
                targets.put_logits_(logits, images)
            losses[chunk] = _losses_to_gradient_(logits, target_columns[chunk], weights[chunk], scale * margin)
            of_targets = None if targets is None else targets.take_gradients_(logits)
            gradients = logits.to(factors.dtype)
            if for_embeds:
                embeds_gradient[chunk] = multiply(gradients, factors)
            if for_rows and precision == "bf16":
                rows_gradient += multiply(gradients.t(), rounded)
            elif for_rows:
                rows_gradient.addmm_(gradients.t(), images)
            if of_targets is not None:
                targets.add_products_(of_targets, images, embeds_gradient, rows_gradient, chunk)
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
        # In place, as it is as large as the rows. PyTorch then rejects a second backward, as they have changed.
        gradients = (None if found is None else found.mul_(gradient) for found in ctx.saved_tensors)
        return *gradients, None, None, None, None, None, None, None, None


class _Targets:
    """The targets of a chunk of images, which are multiplied in fp32 where all others are in bf16.

    Where p is close to 1 everything hangs on them: the gradient is the exponential of what the target is ahead by, and
    of a row's gradient nearly all lies along the row and is taken out. In bf16 it was wrong by 1.5% there; the errors
    of the many others cancel out.
    """

    def __init__(self, target_columns: torch.Tensor, rows: torch.Tensor):
        self.is_owned = (target_columns >= 0)[:, None]  # [chunk, 1]
        self.columns = target_columns.clamp(min=0)[:, None]
        self.rows = rows[self.columns.squeeze(1)]  # [chunk, D]

    def put_logits_(self, logits: torch.Tensor, images: torch.Tensor) -> None:
        exact = (images * self.rows).sum(dim=1, keepdim=True)
        # A target of another process has column 0 here, whose logit may be exact too.
        logits.scatter_(1, self.columns, exact)

    def take_gradients_(self, logits: torch.Tensor) -> torch.Tensor:
        """Takes them out of the gradient by logits, `[chunk, 1]`."""
        found = logits.gather(1, self.columns)
        logits.scatter_(1, self.columns, found.where(~self.is_owned, 0.0))
        return found.where(self.is_owned, 0.0)

    def add_products_(
        self,
        gradients: torch.Tensor,
        images: torch.Tensor,
        embeds_gradient: torch.Tensor | None,
        rows_gradient: torch.Tensor | None,
        chunk: slice,
    ) -> None:
        if embeds_gradient is not None:
            embeds_gradient[chunk] += gradients * self.rows
        if rows_gradient is not None:
            rows_gradient.index_add_(0, self.columns.squeeze(1), gradients * images)


def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Product of matrices in fp32, summed in fp32, whatever the factors are."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # A CPU would round the sums too.


@contextmanager
def matmul_precision(precision: str | None, device: torch.device) -> Iterator[None]:
    """Lets a GPU multiply fp32 as TF32, or forbids it, for a while."""
    if precision not in ("fp32", "tf32") or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
    is_owned = target_columns >= 0
    # Without boolean indices, which would wait for a GPU to count them.
    columns = target_columns.clamp(min=0)[:, None]  # [chunk, 1]
    found = logits.gather(1, columns) if logits.shape[1] else logits.new_zeros(len(logits), 1)
    targets = (found.squeeze(1) - logit_margin).where(is_owned, 0.0)
    # The target is masked out and added again by softplus: correcting a full log-sum-exp overflows in fp32.
    _put(logits, columns, found.where(~is_owned[:, None], -torch.inf))
    maxima = _row_max(logits)
    global_maxima = all_reduce(maxima.clone(), "MAX")
    sums = logits.sub_(maxima[:, None]).exp_().sum(dim=1) * (maxima - global_maxima).exp()
    sums, targets = all_reduce(torch.stack([sums, targets]), "SUM")
    negatives = global_maxima + sums.log()
    normalisers = torch.logaddexp(negatives, targets)
    # What was exponentiated for the sum needs only a factor to become a probability.
    logits.mul_(((maxima - normalisers).exp() * weights)[:, None])
    # A sigmoid of the difference keeps the digits of p - 1 where p is close to 1.
    kept = logits.gather(1, columns) if logits.shape[1] else found
    gradients = (-torch.sigmoid(negatives - targets) * weights)[:, None]
    _put(logits, columns, gradients.where(is_owned[:, None], kept))
    return F.softplus(negatives - targets)


def _put(logits: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
    if logits.shape[1]:  # A process may own no class of the step.
        logits.scatter_(1, columns, values)


def _row_max(logits: torch.Tensor) -> torch.Tensor:
    """Largest logit per row, finite also where a row has no negative on this process."""
    lowest = torch.finfo(logits.dtype).min / 2
    return logits.amax(dim=1).clamp(min=lowest) if logits.shape[1] else logits.new_full(logits.shape[:1], lowest)
