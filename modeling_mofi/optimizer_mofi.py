"""One optimizer out of two: any dense one for the towers, a row-sparse Adam for the entity head."""

from typing import Any

import torch


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
        """Steps both parts; a part none of whose parameters has a gradient stays as it is."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]
