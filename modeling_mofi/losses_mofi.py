"""MOFI's two losses over all processes: image-text contrast and margin softmax over entities.

Every loss returned here is a process's own share: its mean over processes is the global loss. Data-parallel wrappers
average gradients over processes, so the gradient that results is the one of a single process with the whole batch.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .processes_mofi import all_reduce, gather_rows, process_place, row_counts


MAX_LOGITS = 2**26  # Elements of one fp32 block of logits (256 MiB); larger products are computed in chunks of rows.


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    *,
    logit_scale: torch.Tensor,
    entity_labels: torch.Tensor | None = None,
    max_logits: int = MAX_LOGITS,
) -> torch.Tensor:
    """Symmetric cross-entropy between images and their texts, with the negatives of all processes.

    Args:
        image_embeds: Unit-length `[B, D]`.
        text_embeds: Unit-length `[B, D]`; row i belongs to image i.
        logit_scale: Inverse temperature, a scalar (already exponentiated).
        entity_labels: `[B]`. Rows of the same entity are no negatives of one another; below 0 means unlabelled.
        max_logits: Logits held at once; above it rows are computed in chunks, recomputed in backward.

    Returns:
        Scalar; its mean over processes is the mean over the N rows of the global batch.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        image_embeds, text_embeds, logit_scale = image_embeds.float(), text_embeds.float(), logit_scale.float()
        counts = row_counts(image_embeds)
        first = sum(counts[: process_place()[0]])
        # Own rows against gathered columns: every pair is computed once, and its gradient reaches both owners.
        all_images, all_texts = gather_rows(image_embeds, counts), gather_rows(text_embeds, counts)  # [N, D]
        labels = None if entity_labels is None else gather_rows(entity_labels.view(-1), counts)
        image_loss = _matching_loss(image_embeds * logit_scale, all_texts, first, labels, max_logits)
        text_loss = _matching_loss(text_embeds * logit_scale, all_images, first, labels, max_logits)
    # Differs from a plain mean only if processes hold different numbers of rows.
    return (image_loss + text_loss) / 2 * len(counts) / sum(counts)


def _matching_loss(
    rows: torch.Tensor, columns: torch.Tensor, first: int, labels: torch.Tensor | None, max_logits: int
) -> torch.Tensor:
    """Sum over rows `[B, D]` of the cross-entropy whose right column is `first + row`, among `[N, D]` columns."""
    targets = torch.arange(first, first + len(rows), device=rows.device)
    chunk_size = max(1, max_logits // len(columns))
    if len(rows) <= chunk_size:
        return _chunk_matching_loss(rows, targets, columns, labels)
    losses = [
        checkpoint(_chunk_matching_loss, *chunk, columns, labels, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(rows.split(chunk_size), targets.split(chunk_size), strict=True)
    ]
    return torch.stack(losses).sum()


def _chunk_matching_loss(
    rows: torch.Tensor, targets: torch.Tensor, columns: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    logits = rows @ columns.t()  # [chunk, N]
    if labels is not None:
        own = labels[targets][:, None]
        is_false_negative = (own == labels[None, :]) & (own >= 0)
        is_false_negative.scatter_(1, targets[:, None], False)
        logits = logits.masked_fill(is_false_negative, -torch.inf)
    return F.cross_entropy(logits, targets, reduction="sum")


def margin_softmax_loss(
    image_embeds: torch.Tensor,
    rows: torch.Tensor,
    target_columns: torch.Tensor,
    *,
    scale: float,
    margin: float,
    max_logits: int = MAX_LOGITS,
) -> torch.Tensor:
    """Cosine softmax with an additive margin (CosFace) over class rows that processes share among them.

    Each process passes all N embeddings and its own part of the class rows; the normaliser is reduced over processes.
    Logits are computed in chunks and again in backward, never held whole.

    Args:
        image_embeds: Unit-length `[N, D]`, the same on every process.
        rows: Unit-length `[S, D]`, this process's classes.
        target_columns: `[N]`, index in `rows` of each image's class, or -1 where another process owns it.
        scale: Inverse temperature.
        margin: Subtracted from the target's cosine.
        max_logits: Logits held at once.

    Returns:
        Loss of each row, `[N]`, the same on every process.

    Source: CosFace (https://arxiv.org/abs/1801.09414); that MOFI used this form is inferred from its code base.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        return _MarginSoftmax.apply(image_embeds.float(), rows.float(), target_columns, scale, margin, max_logits)


class _MarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeds, rows, target_columns, scale, margin, max_logits):
        ctx.settings = scale, margin, max(1, max_logits // max(1, len(rows)))
        maxima, sums, targets = (embeds.new_empty(len(embeds)) for _ in range(3))
        for chunk, logits, owned, columns in _logit_chunks(embeds, rows, target_columns, *ctx.settings):
            targets[chunk] = 0.0
            targets[chunk][owned] = logits[owned, columns]
            # The target is masked out and added again by softplus: correcting a full log-sum-exp overflows in fp32.
            logits[owned, columns] = -torch.inf
            maxima[chunk] = _row_max(logits)
            sums[chunk] = (logits - maxima[chunk][:, None]).exp_().sum(dim=1)
        global_maxima = all_reduce(maxima.clone(), "MAX")
        sums = all_reduce(sums * (maxima - global_maxima).exp(), "SUM")
        targets = all_reduce(targets, "SUM")
        negatives = global_maxima + sums.log()
        ctx.save_for_backward(embeds, rows, target_columns, negatives, targets)
        return F.softplus(negatives - targets)

    @staticmethod
    def backward(ctx, gradient):
        embeds, rows, target_columns, negatives, targets = ctx.saved_tensors
        normalisers, scale = torch.logaddexp(negatives, targets), ctx.settings[0]
        # A process's objective is the loss of its own rows only; the others' come from the others.
        gradient = all_reduce(gradient.contiguous().clone(), "SUM")
        embeds_gradient, rows_gradient = torch.zeros_like(embeds), torch.zeros_like(rows)
        with torch.autocast(embeds.device.type, enabled=False):
            for chunk, logits, owned, columns in _logit_chunks(embeds, rows, target_columns, *ctx.settings):
                probabilities = logits.sub_(normalisers[chunk][:, None]).exp_()
                # A sigmoid of the difference keeps the digits of p - 1 where p is close to 1.
                probabilities[owned, columns] = -torch.sigmoid(negatives[chunk] - targets[chunk])[owned]
                probabilities *= gradient[chunk][:, None] * scale
                embeds_gradient[chunk] = probabilities @ rows
                rows_gradient.addmm_(probabilities.t(), embeds[chunk])
        # No wrapper averages the rows' gradient over processes as it does the towers'; this does.
        rows_gradient /= process_place()[1]
        return embeds_gradient, rows_gradient, None, None, None, None


def _logit_chunks(embeds, rows, target_columns, scale, margin, chunk_size):
    """Yields (slice of rows, logits `[chunk, S]` with the margin applied, positions of owned targets, columns)."""
    for start in range(0, len(embeds), chunk_size):
        chunk = slice(start, min(start + chunk_size, len(embeds)))
        logits = (embeds[chunk] @ rows.t()).mul_(scale)
        owned = (target_columns[chunk] >= 0).nonzero().squeeze(1)
        columns = target_columns[chunk][owned]
        logits[owned, columns] -= scale * margin
        yield chunk, logits, owned, columns


def _row_max(logits: torch.Tensor) -> torch.Tensor:
    """Largest logit per row, finite also where a row has no negative on this process."""
    lowest = torch.finfo(logits.dtype).min / 2
    return logits.amax(dim=1).clamp(min=lowest) if logits.shape[1] else logits.new_full(logits.shape[:1], lowest)
