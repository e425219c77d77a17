"""One optimizer out of two: any dense one for the towers, a row-sparse Adam for the entity head."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


# A layer of a transformer, or a stage of a convolutional tower: the first number in its name.
LAYER = re.compile(r"^(\w+?)\..*?\b(?:layers?|stages)\.(\d+)\.")


class TowersAndHeadOptimizer(torch.optim.Optimizer):
    """Steps the towers' optimizer and the head's together; schedulers see the parameter groups of both.

    Args:
        towers: Dense optimizer of the towers' parameters.
        head: Optimizer of the head's rows that understands sparse gradients, such as `torch.optim.SparseAdam`.
    """

    def __init__(self, towers: torch.optim.Optimizer, head: torch.optim.Optimizer):
        super().__init__([*towers.param_groups, *head.param_groups], {})
        self.parts = {"towers": towers, "head": head}
        # The same dictionaries, so that a learning rate set here is the one that each part uses.
        towers.param_groups = self.param_groups[: len(towers.param_groups)]
        head.param_groups = self.param_groups[len(towers.param_groups) :]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Steps both parts; a part without any gradient is left unchanged."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]


def lower_rates_by_layer(optimizer: torch.optim.Optimizer, mofi: nn.Module, *, decay: float) -> None:
    """Splits an optimizer's groups so that each layer of a tower learns `decay` times as fast as the one above it.

    What is above the last layer keeps the rate, and comes first; embeddings learn slowest, as layer 0 of those below.

    Source: BEiT (https://arxiv.org/abs/2106.08254), after ULMFiT (https://arxiv.org/abs/1801.06146).
    """
    depths = {id(parameter): depth for parameter, depth in parameters_with_depth(mofi)}
    groups = []
    for group in optimizer.param_groups:
        for depth in sorted({depths[id(parameter)] for parameter in group["params"]}):
            parameters = [parameter for parameter in group["params"] if depths[id(parameter)] == depth]
            groups.append({**group, "params": parameters, "lr": group["lr"] * decay**depth})
    optimizer.param_groups = sorted(groups, key=lambda group: -group["lr"])


def parameters_with_depth(mofi: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Each parameter of the towers with the number of layers from it to the top of its tower, 0 above the last."""
    places = {name: LAYER.search(name) for name, _ in mofi.named_parameters()}
    sizes: dict[str, int] = {}
    for place in filter(None, places.values()):
        sizes[place[1]] = max(sizes.get(place[1], 0), int(place[2]) + 1)
    found = []
    for name, parameter in mofi.named_parameters():
        place, tower = places[name], name.split(".")[0]
        depth = sizes[tower] - int(place[2]) if place else 0
        is_below = place is None and ("embeddings" in name or "pre_layrnorm" in name)
        found.append((parameter, sizes[tower] + 1 if is_below else depth))
    return found


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float) -> torch.Tensor:
    """Scales gradients down to a joint norm of at most `max_norm`; some may be sharded, some not.

    Returns:
        The norm before, over all shards.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    sharded = [parameter for parameter in parameters if hasattr(parameter.grad, "full_tensor")]
    if not sharded:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    plain = [parameter for parameter in parameters if not hasattr(parameter.grad, "full_tensor")]
    norms = [nn.utils.get_total_norm([parameter.grad for parameter in group]) for group in (sharded, plain) if group]
    norm = torch.stack([norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]).norm()
    for group in (sharded, plain):
        nn.utils.clip_grads_with_norm_(group, max_norm, norm)
    return norm
