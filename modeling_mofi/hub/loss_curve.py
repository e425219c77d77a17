"""A picture of a training run's losses for its model card."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

COLORS = {"loss": "#1f2937", "contrastive_loss": "#2563eb", "entity_loss": "#d97706"}


def draw_loss_curve(log_history: Sequence[dict[str, Any]], path: str | Path) -> bool:
    """Draws `loss`, `contrastive_loss` and `entity_loss` over steps to a PNG file, where matplotlib is installed.

    Args:
        log_history: As in `trainer_state.json`: one dict per logged step, with `step`.

    Returns:
        Whether it was drawn; a curve needs two logged steps.
    """
    curves = {name: [(log["step"], log[name]) for log in log_history if name in log] for name in COLORS}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("The card has no picture of the losses: matplotlib, which draws it, is not installed.")
        return False
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), color=COLORS[name], label=name.replace("_", " "), linewidth=2)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(color="#e5e7eb")
    axes.legend(frameon=False)
    figure.savefig(path)
    return True
