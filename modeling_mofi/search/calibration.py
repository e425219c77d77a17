"""From cosines to probabilities: a temperature, and a threshold that stands for "nothing known"."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Calibration:
    """Softmax over an image's best entities and one more choice, "nothing known", which has the cosine `threshold`.

    Attributes:
        scale: Inverse temperature.
        threshold: Cosine at which an entity is as likely as nothing known.
    """

    scale: float
    threshold: float

    def confidences(self, similarities: torch.Tensor) -> torch.Tensor:
        """Probabilities of the entities `[B, K]`; what is left of 1 is that nothing known is shown."""
        return _logits(similarities, torch.tensor([self.scale, self.threshold])).softmax(dim=1)[:, :-1]


def fit_calibration(similarities: torch.Tensor, targets: torch.Tensor) -> Calibration:
    """Chooses scale and threshold by maximum likelihood on labeled images.

    Args:
        similarities: Cosines of the best entities, `[B, K]`.
        targets: Column of the right entity, `[B]`; -1 where it is not among them or nothing known is shown.

    Raises:
        ValueError: If there is no image, or no image of a known entity.
    """
    if not len(targets) or not (targets >= 0).any():
        raise ValueError(
            f"{len(targets)} images with {int((targets >= 0).sum())} of known entities are too few to calibrate on."
        )
    targets = targets.where(targets >= 0, similarities.shape[1])
    start = similarities[:, 0].median().item()
    # The scale is fitted by its logarithm, so that it stays positive.
    parameters = torch.tensor([3.0, start], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        values = torch.stack([parameters[0].clamp(-2, 7).exp(), parameters[1]])
        # A weak pull towards the start keeps a set without mistakes from asking for an infinite scale.
        pull = 1e-3 * (parameters[0] - 3.0).square() + 1e-3 * (parameters[1] - start).square()
        value = torch.nn.functional.cross_entropy(_logits(similarities.double(), values), targets) + pull
        value.backward()
        return value

    optimizer.step(loss)
    scale, threshold = parameters.detach().tolist()
    return Calibration(scale=min(max(torch.tensor(scale).exp().item(), 0.1), 1000.0), threshold=threshold)


def _logits(similarities: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    nothing = parameters[1].to(similarities.dtype).expand(len(similarities), 1)
    return torch.cat([similarities, nothing], dim=1) * parameters[0]
