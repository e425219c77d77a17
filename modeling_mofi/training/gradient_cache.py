"""Batches beyond memory: the towers run chunk by chunk, the losses see the whole batch, the gradient is the same.

Source: GradCache (https://arxiv.org/abs/2101.06983).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..pretraining import MofiForPreTrainingOutput
from .checkpoint import random_states, set_random_states


EMBEDS = ("image_embeds", "text_embeds")
SCALARS = ("logit_scale", "logit_bias")


def cached_backward(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    *,
    chunk_size: int,
    compute_loss: Callable[[MofiForPreTrainingOutput], torch.Tensor],
    backward: Callable[[torch.Tensor], None],
    no_sync: Callable[[], AbstractContextManager],
) -> torch.Tensor:
    """Accumulates the gradient of a batch while holding the activations of `chunk_size` rows only.

    The towers run twice: once without gradient for the embeddings, and, once the losses' gradient with respect to
    these is known, chunk by chunk with it. Random states are restored in between, so that dropout is the same.

    Args:
        model: `MofiForPreTraining`, in a data-parallel wrapper or not.
        batch: Its inputs but `entity_labels`, each of B rows or a setting.
        compute_loss: From the embeddings of the whole batch, `logit_scale` and `logit_bias` to the loss.
        backward: Called with each scalar to differentiate.
        no_sync: Keeps wrappers from communicating in the chunks before the last.

    Returns:
        The loss, detached.
    """
    chunks = list(split_batch(batch, chunk_size))
    states, outputs = [], []
    for chunk in chunks:
        states.append(random_states())
        with torch.no_grad():
            outputs.append(model(**chunk, return_loss=False))
    leaves = _leaves(outputs)
    loss = compute_loss(leaves)
    backward(loss)
    for place, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        is_last = place == len(chunks) - 1
        rows = slice(place * chunk_size, (place + 1) * chunk_size)
        if is_last:
            _backward_chunk(model, chunk, state, leaves, rows, backward, with_scalars=True)
        else:
            with no_sync():
                _backward_chunk(model, chunk, state, leaves, rows, backward, with_scalars=False)
    return loss.detach()


def split_batch(batch: dict[str, Any], chunk_size: int) -> Iterator[dict[str, Any]]:
    """Yields the batch by `chunk_size` rows; what is no tensor goes to every chunk."""
    num_rows = len(batch["pixel_values"])
    for start in range(0, num_rows, chunk_size):
        yield {
            name: value[start : start + chunk_size] if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }


def _leaves(outputs: list[MofiForPreTrainingOutput]) -> MofiForPreTrainingOutput:
    """Joins chunks of embeddings, cut off from the towers, to take the losses' gradient."""
    leaves = {}
    for name in EMBEDS:
        if name in outputs[0]:
            leaves[name] = torch.cat([output[name] for output in outputs]).requires_grad_()
    for name in SCALARS:
        if name in outputs[0]:
            leaves[name] = outputs[0][name].detach().clone().requires_grad_()
    return MofiForPreTrainingOutput(**leaves)


def _backward_chunk(model, chunk, state, leaves, rows, backward, *, with_scalars) -> None:
    set_random_states(state)
    output = model(**chunk, return_loss=False)
    terms = [(output[name] * leaves[name].grad[rows]).sum() for name in EMBEDS if name in leaves]
    if with_scalars:
        terms += [(output[name] * leaves[name].grad).sum() for name in SCALARS if name in leaves]
    backward(sum(terms))
