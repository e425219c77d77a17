"""Figures of an evaluation: contact sheets of what each model retrieves."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageOps

from metrics.knn_accuracy.knn_accuracy import nearest


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


RIGHT, WRONG, INK, PAPER = "#1a9850", "#d0d0d0", "#222222", "#ffffff"
SHOWN = 5
SIDE = 192  # Pixels of a picture on a sheet.


@dataclass
class Pictures:
    """Images to look up while drawing: `read(row)` gives a PIL image; one label and one caption per row."""

    read: Any
    labels: Sequence[Any]
    captions: Sequence[str]


def retrieval_sheet(
    path: Path,
    query: Pictures,
    query_embeds: dict[str, torch.Tensor],
    queries: Sequence[int],
    *,
    gallery: Pictures | None = None,
    gallery_embeds: dict[str, torch.Tensor] | None = None,
    title: str | None = None,
) -> None:
    """Draws queries with the five nearest images of each model side by side, right ones framed green.

    Args:
        query_embeds: Unit-length rows by name of model, in the order of the columns.
        queries: Rows to draw, from top to bottom.
        gallery: What is searched; the queries themselves, each without itself, if left out.
    """
    shown = gallery or query
    found = {}
    for model, embeds in query_embeds.items():
        others = None if gallery_embeds is None else gallery_embeds[model]
        found[model] = nearest_rows(embeds, queries, others)
    width = 1.5 + sum(0.25 + SHOWN for _ in found)
    figure = plt.figure(figsize=(width, 1.22 * len(queries) + 0.5), facecolor=PAPER)
    rows = figure.add_gridspec(
        len(queries), 1, left=0.01, right=0.99, top=1 - 0.62 / figure.get_figheight(), bottom=0.01
    )
    for line, row in enumerate(queries):
        ratios = [1.0] + [share for _ in found for share in (0.12, *[1.0] * SHOWN)]
        cells = rows[line].subgridspec(1, len(ratios), width_ratios=ratios, wspace=0.08)
        axes = figure.add_subplot(cells[0])
        draw_picture(axes, query.read(row), query.captions[row], color=INK)
        if line == 0:
            axes.set_title("query", fontsize=11, color=INK, pad=8)
        for block, (model, indices) in enumerate(found.items()):
            for place, index in enumerate(indices[line]):
                axes = figure.add_subplot(cells[2 + block * (SHOWN + 1) + place])
                is_right = shown.labels[index] == query.labels[row]
                draw_picture(axes, shown.read(index), shown.captions[index], color=RIGHT if is_right else WRONG)
                if line == 0 and place == SHOWN // 2:
                    axes.set_title(model, fontsize=11, color=INK, pad=8)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def nearest_rows(embeds: torch.Tensor, queries: Sequence[int], gallery_embeds: torch.Tensor | None) -> np.ndarray:
    """Rows of the nearest images, shape (len(queries), 5 or fewer); a query does not find itself."""
    wanted = embeds[list(queries)]
    if gallery_embeds is not None:
        return nearest(wanted, gallery_embeds, k=min(SHOWN, len(gallery_embeds)))[1].cpu().numpy()
    _, indices = nearest(wanted, embeds, k=min(SHOWN + 1, len(embeds)))
    lines = indices.cpu().tolist()
    return np.array([[i for i in line if i != row][:SHOWN] for line, row in zip(lines, queries, strict=True)])


def draw_picture(axes: Any, image: Image.Image, caption: str, *, color: str) -> None:
    """Draws a picture on a white square with a coloured frame and a short caption below."""
    axes.imshow(ImageOps.pad(image, (SIDE, SIDE), color="white"))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=3 if color == RIGHT else 1)
    axes.set_xlabel(textwrap.shorten(caption, 20, placeholder="…"), fontsize=7.5, color=INK, labelpad=3)


def choose_queries(labels: Sequence[Any], *, count: int, seed: int = 0) -> list[int]:
    """Rows of randomly drawn classes that have another image to find, one row per class."""
    values, inverse, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.where(counts > 1)[0])[:count]
    return [int(generator.choice(np.where(inverse == chosen)[0])) for chosen in classes]
