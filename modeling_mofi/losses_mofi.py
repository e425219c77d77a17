"""MOFI's contrast of images and texts over all processes; the loss over entities is in `margin_softmax.py`.

The loss returned here is a process's own share: its mean over processes is the global loss. Data-parallel wrappers
average gradients over processes, so the gradient that results is the one of a single process with the whole batch.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .distributed_mofi import gather_rows, process_place, row_counts


MAX_LOGITS = 2**26  # Elements of one fp32 block of logits (256 MiB); larger products are computed in chunks of rows.
SAME_ENTITY = ("left_out", "positive", "negative")


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    *,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor | None = None,
    entity_labels: torch.Tensor | None = None,
    same_entity: str = "left_out",
    max_logits: int = MAX_LOGITS,
) -> torch.Tensor:
    """Contrast between images and texts, with the negatives of all processes: by softmax, or with a bias by sigmoid.

    Args:
        image_embeds: Unit-length `[B, D]`.
        text_embeds: Unit-length `[B, D]`; row i belongs to image i.
        logit_scale: Inverse temperature, a scalar (already exponentiated).
        logit_bias: Added to every logit of the sigmoid loss; None for the softmax loss, in both directions.
        entity_labels: `[B]`; below 0 means unlabeled.
        same_entity: What the text of another image of the same entity is to an image: `"left_out"`, a further
            `"positive"`, or a `"negative"` as any other.
        max_logits: Logits held at once; above it rows are computed in chunks, recomputed in backward.

    Returns:
        Scalar; its mean over processes is the mean over the N rows of the global batch.

    Source: CLIP (https://arxiv.org/abs/2103.00020), SigLIP (https://arxiv.org/abs/2303.15343), and for positives UniCL
    (https://arxiv.org/abs/2204.03610).
    """
    if same_entity not in SAME_ENTITY:
        raise ValueError(f"same_entity is {same_entity!r}; it must be one of {', '.join(SAME_ENTITY)}.")
    with torch.autocast(image_embeds.device.type, enabled=False):
        image_embeds, text_embeds, logit_scale = image_embeds.float(), text_embeds.float(), logit_scale.float()
        counts = row_counts(image_embeds)
        # Own rows against gathered columns: every pair is computed once, and its gradient reaches both owners.
        all_images, all_texts = gather_rows(image_embeds, counts), gather_rows(text_embeds, counts)  # [N, D]
        has_labels = entity_labels is not None and same_entity != "negative"
        labels = gather_rows(entity_labels.view(-1), counts) if has_labels else None
        settings = (sum(counts[: process_place()[0]]), labels, same_entity == "positive", max_logits)
        loss = _loss_of_rows(image_embeds * logit_scale, all_texts, logit_bias, *settings)
        if logit_bias is None:
            text_loss = _loss_of_rows(text_embeds * logit_scale, all_images, None, *settings)
            loss = (loss + text_loss) / 2
    # Differs from a plain mean only if processes hold different numbers of rows.
    return loss * len(counts) / sum(counts)


def _loss_of_rows(
    rows: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    first: int,
    labels: torch.Tensor | None,
    is_positive: bool,
    max_logits: int,
) -> torch.Tensor:
    """Sum over rows `[B, D]` of their losses, among `[N, D]` columns of which `first + row` is the right one."""
    targets = torch.arange(first, first + len(rows), device=rows.device)
    chunk_size = max(1, max_logits // len(columns))
    if len(rows) <= chunk_size:
        return _loss_of_chunk(rows, targets, columns, bias, labels, is_positive)
    settings = (columns, bias, labels, is_positive)
    losses = [
        checkpoint(_loss_of_chunk, *chunk, *settings, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(rows.split(chunk_size), targets.split(chunk_size), strict=True)
    ]
    return torch.stack(losses).sum()


def _loss_of_chunk(
    rows: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor | None,
    is_positive: bool,
) -> torch.Tensor:
    logits = rows @ columns.t()  # [chunk, N]
    is_same = None
    if labels is not None:
        is_same = (labels[targets][:, None] == labels[None, :]) & (labels[targets] >= 0)[:, None]
        is_same.scatter_(1, targets[:, None], is_positive)
    if bias is not None:
        return _sigmoid_loss(logits + bias.float(), targets, is_same, is_positive)
    if is_same is None or not is_positive:
        logits = logits if is_same is None else logits.masked_fill(is_same, -torch.inf)
        return F.cross_entropy(logits, targets, reduction="sum")
    is_same.scatter_(1, targets[:, None], True)
    means = logits.where(is_same, 0.0).sum(dim=1) / is_same.sum(dim=1)
    return (logits.logsumexp(dim=1) - means).sum()


def _sigmoid_loss(
    logits: torch.Tensor, targets: torch.Tensor, is_same: torch.Tensor | None, is_positive: bool
) -> torch.Tensor:
    signs = torch.full_like(logits, -1.0).scatter_(1, targets[:, None], 1.0)
    if is_same is not None:
        signs = signs.masked_fill(is_same, 1.0 if is_positive else 0.0)
    # A sign of 0 leaves its pair out.
    return -(F.logsigmoid(signs * logits) * signs.abs()).sum()
