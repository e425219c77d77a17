"""A picture of a training run's losses for its model card, drawn with Pillow alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont


WIDTH, HEIGHT = 960, 440
LEFT, TOP, RIGHT, BOTTOM = 70, 20, 20, 46  # Margins around the curves.
COLORS = {"loss": "#1f2937", "contrastive_loss": "#2563eb", "entity_loss": "#d97706"}
NUM_TICKS = 5


def draw_loss_curve(log_history: Sequence[dict[str, Any]], path: str | Path) -> bool:
    """Draws `loss`, `contrastive_loss` and `entity_loss` over steps to a PNG file.

    Args:
        log_history: As in `trainer_state.json`: one dict per logged step, with `step`.

    Returns:
        Whether there was anything to draw; a curve needs two logged steps.
    """
    curves = {name: [(log["step"], log[name]) for log in log_history if name in log] for name in COLORS}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return False
    points = [point for curve in curves.values() for point in curve]
    limits = (max(step for step, _ in points), min(0.0, *(y for _, y in points)), max(y for _, y in points) or 1.0)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    _draw_axes(canvas, limits)
    for row, (name, curve) in enumerate(curves.items()):
        canvas.line([_place(point, limits) for point in curve], fill=COLORS[name], width=3, joint="curve")
        y = TOP + 12 + 24 * row
        canvas.line([(WIDTH - 210, y), (WIDTH - 180, y)], fill=COLORS[name], width=3)
        canvas.text((WIDTH - 172, y), name.replace("_", " "), fill="#111827", font=_font(), anchor="lm")
    image.save(path)
    return True


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(15)


def _place(point: tuple[float, float], limits: tuple[float, float, float]) -> tuple[float, float]:
    """Pixel of (step, loss) when the axes end at `limits`: last step, lowest and highest loss."""
    last_step, lowest, highest = limits
    x = LEFT + point[0] / last_step * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - (point[1] - lowest) / (highest - lowest) * (HEIGHT - TOP - BOTTOM)
    return x, y


def _draw_axes(canvas: ImageDraw.ImageDraw, limits: tuple[float, float, float]) -> None:
    last_step, lowest, highest = limits
    for tick in range(NUM_TICKS + 1):
        loss = lowest + (highest - lowest) * tick / NUM_TICKS
        step = last_step * tick / NUM_TICKS
        x, y = _place((step, loss), limits)
        canvas.line([(LEFT, y), (WIDTH - RIGHT, y)], fill="#e5e7eb", width=1)
        canvas.text((LEFT - 8, y), f"{loss:.3g}", fill="#4b5563", font=_font(), anchor="rm")
        canvas.text((x, HEIGHT - BOTTOM + 8), f"{step:,.0f}", fill="#4b5563", font=_font(), anchor="ma")
    canvas.text((LEFT + 8, TOP), "loss", fill="#4b5563", font=_font(), anchor="la")
    canvas.text((WIDTH - RIGHT, HEIGHT - 4), "step", fill="#4b5563", font=_font(), anchor="rd")
