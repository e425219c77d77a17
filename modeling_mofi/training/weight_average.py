"""A running average of the towers' weights: evaluated and saved in place of the weights that are trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from ..pretraining import MofiForPreTraining
from .checkpoint import sharded_like


class WeightAverage(TrainerCallback):
    """Exponential moving average of the towers' trained parameters, brought up to date after each optimizer step.

    After step t the average keeps `min(decay, (1 + t) / (10 + t))` of what it was, so that the first weights are
    forgotten in a short run too.

    Args:
        decay: In (0, 1); 1 / (1 - decay) is about the number of steps averaged over.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.skips_step = False  # Set where the next optimizer step changes no weight.

    @torch.no_grad()
    def start(self, model: MofiForPreTraining) -> None:
        """Begins with the weights that the towers have now; they may be sharded."""
        self.model = model
        self.parameters = {name: value for name, value in model.mofi.named_parameters() if value.requires_grad}
        self.averages = [shard.clone() for shard in own_shards(self.parameters.values())]

    @torch.no_grad()
    def load(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Takes a saved average: tensors as `MofiModel` names them, not sharded."""
        loaded = [sharded_like(state_dict[name], parameter) for name, parameter in self.parameters.items()]
        for average, value in zip(self.averages, own_shards(loaded), strict=True):
            average.copy_(value)

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the average towards the weights, unless the step is skipped; called by the Trainer."""
        if self.skips_step:
            self.skips_step = False
            return
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.averages, own_shards(self.parameters.values()), None)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Lets the towers have the averages as their weights for a while; every process must do so."""
        weights = own_shards(self.parameters.values())
        trained = [shard.clone() for shard in weights]
        self._set(weights, self.averages)
        try:
            yield
        finally:
            self._set(weights, trained)

    @torch.no_grad()
    def _set(self, weights: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
        for module in self.model.modules():
            if hasattr(module, "reshard"):  # FSDP may still hold gathered weights, which are the old ones.
                module.reshard()


def own_shards(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The part of each parameter that is on this process, as plain tensors that share its memory."""
    parameters = [parameter.detach() for parameter in parameters]
    return [parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in parameters]
