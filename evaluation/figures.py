"""Figures of an evaluation: contact sheets of what each model retrieves, bars, maps of the embeddings."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.manifold import TSNE

from evaluation.label_sets import class_counts, labels_of, share_label
from evaluation.results import Value
from metrics.knn_accuracy.knn_accuracy import nearest


matplotlib.use("Agg")
from matplotlib import font_manager  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402


RIGHT, WRONG, INK, PAPER = "#1a9850", "#d0d0d0", "#222222", "#ffffff"
COLORS = ("#3b6fb6", "#e07b39", "#4c9f70", "#b5485d", "#8064a2", "#d4b13f", "#3fa7a3", "#8c6d53", "#d985b4")
SHOWN = 5
MAPPED = 4000  # Images on a map; more cost minutes and hide one another.
SIDE = 192  # Pixels of a picture on a sheet.
# Asked for the letters that matplotlib's own font lacks, where they are installed.
WIDE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC")
WIDE_FONTS += ("Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari")
FONTS = ["DejaVu Sans", *sorted({font.name for font in font_manager.fontManager.ttflist} & set(WIDE_FONTS))]
matplotlib.rcParams["font.family"] = FONTS
matplotlib.rcParams["text.parse_math"] = False  # `Ba$$in` is a name, not mathematics.


@dataclass
class Pictures:
    """Images to look up while drawing: `read(row)` gives a PIL image; one label and one caption per row."""

    read: Any
    labels: Sequence[Any]
    captions: Sequence[str]

    def caption(self, row: int) -> str:
        """The caption of a row, or its label where no font has the caption's letters."""
        return drawable(self.captions[row], ", ".join(map(str, labels_of(self.labels[row]))))


@lru_cache
def known_letters() -> frozenset[int]:
    """Code points that the fonts can draw."""
    paths = [font_manager.findfont(name) for name in FONTS]
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())


def drawable(text: str, instead: str) -> str:
    """The text, or `instead` where a letter of it would be drawn as an empty box."""
    return text if {ord(letter) for letter in text if not letter.isspace()} <= known_letters() else instead


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
    top = 1 - 0.62 / figure.get_figheight()
    rows = figure.add_gridspec(len(queries), 1, left=0.01, right=0.99, top=top, bottom=0.01)
    for line, row in enumerate(queries):
        ratios = [1.0] + [share for _ in found for share in (0.12, *[1.0] * SHOWN)]
        cells = rows[line].subgridspec(1, len(ratios), width_ratios=ratios, wspace=0.08)
        axes = figure.add_subplot(cells[0])
        draw_picture(axes, query.read(row), query.caption(row), color=INK)
        if line == 0:
            axes.set_title("query", fontsize=11, color=INK, pad=8)
        for block, (model, indices) in enumerate(found.items()):
            for place, index in enumerate(indices[line]):
                axes = figure.add_subplot(cells[2 + block * (SHOWN + 1) + place])
                is_right = share_label(shown.labels[index], query.labels[row])
                draw_picture(axes, shown.read(index), shown.caption(index), color=RIGHT if is_right else WRONG)
                if line == 0 and place == SHOWN // 2:
                    axes.set_title(model, fontsize=11, color=INK, pad=8)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    save(figure, path)


def nearest_rows(embeds: torch.Tensor, queries: Sequence[int], gallery_embeds: torch.Tensor | None) -> np.ndarray:
    """Rows of the nearest images, shape (len(queries), 5 or fewer); a query does not find itself."""
    wanted = embeds[list(queries)]
    if gallery_embeds is not None:
        return nearest(wanted, gallery_embeds, k=min(SHOWN, len(gallery_embeds)))[1].cpu().numpy()
    _, indices = nearest(wanted, embeds, k=min(SHOWN + 1, len(embeds)))
    lines = indices.cpu().tolist()
    return np.array([[i for i in line if i != row][:SHOWN] for line, row in zip(lines, queries, strict=True)])


def draw_picture(axes: Any, image: Image.Image, caption: str, *, color: str) -> None:
    """Draws a picture on a white square with a colored frame and a short caption below."""
    axes.imshow(ImageOps.pad(image, (SIDE, SIDE), color="white"))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=3 if color == RIGHT else 1)
    axes.set_xlabel(textwrap.shorten(caption, 20, placeholder="…"), fontsize=7.5, color=INK, labelpad=3)


def choose_queries(
    labels: Sequence[Any], *, count: int, seed: int = 0, gallery_labels: Sequence[Any] | None = None
) -> list[int]:
    """Rows of randomly drawn classes that have an image to find, another one or one of the gallery; one per class."""
    counts, found = class_counts(labels), class_counts(labels if gallery_labels is None else gallery_labels)
    values = sorted(counts)
    has_match = np.array([found[value] > (gallery_labels is None) for value in values])
    generator = np.random.default_rng(seed)
    classes = [values[place] for place in generator.permutation(np.where(has_match)[0])[:count]]
    rows = [[row for row, label in enumerate(labels) if chosen in labels_of(label)] for chosen in classes]
    return list(dict.fromkeys(int(generator.choice(of_class)) for of_class in rows))


def bar_chart(path: Path, bars: dict[str, dict[str, Value]], *, title: str | None = None) -> None:
    """Draws a group of bars per metric, the models side by side, with their intervals.

    Args:
        bars: Value by model and metric; a metric that a model lacks leaves a gap.
    """
    metrics = list(dict.fromkeys(metric for values in bars.values() for metric in values))
    width = 0.8 / len(bars)
    figure, axes = plt.subplots(figsize=(max(4.5, 1.2 + 0.35 * len(metrics) * (len(bars) + 1)), 3.8))
    for place, (model, values) in enumerate(bars.items()):
        offsets = np.arange(len(metrics)) + (place - (len(bars) - 1) / 2) * width
        present = [(x, values[metric]) for x, metric in zip(offsets, metrics, strict=True) if metric in values]
        x, heights = [x for x, _ in present], [value.value for _, value in present]
        errors = [[max(0.0, v.value - v.low) for _, v in present], [max(0.0, v.high - v.value) for _, v in present]]
        axes.bar(x, heights, width * 0.92, label=model, color=COLORS[place % len(COLORS)])
        axes.errorbar(x, heights, np.nan_to_num(errors), fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    slant = {"rotation": 35, "ha": "right"} if len(metrics) > 4 else {}
    axes.set_xticks(range(len(metrics)), metrics, **slant)
    axes.set_ylim(0, 1)
    axes.yaxis.grid(True, color=WRONG, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(bars))
    if title:
        axes.set_title(title, fontsize=11, color=INK, pad=28)
    save(figure, path)


def open_set_chart(path: Path, curves: dict[str, list[tuple[float, float]]], *, title: str) -> None:
    """Draws rates of right names over rates of NIL images that get a name, a line for each model and way."""
    figure, axes = plt.subplots(figsize=(5, 4.2))
    for place, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), label=drawable(name, ascii(name)), color=COLORS[place % len(COLORS)])
    axes.set_xlabel("NIL images that get a name")
    axes.set_ylabel("images named right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(True, color=WRONG, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.set_title(drawable(title, ascii(title)), fontsize=11, color=INK)
    save(figure, path)


def embedding_map(path: Path, image_embeds: dict[str, torch.Tensor], groups: Sequence[str], *, seed: int = 0) -> None:
    """Draws t-SNE maps of the embeddings, one per model, colored by group: the nine largest and the others.

    Args:
        image_embeds: Unit-length rows by model.
        groups: One name per row.
    """
    rows = np.random.default_rng(seed).permutation(len(groups))[:MAPPED]
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    largest = [str(name) for name in names[np.argsort(-counts, kind="stable")][: len(COLORS)]]
    figure, axes = plt.subplots(1, len(image_embeds), figsize=(5 * len(image_embeds), 5.4), squeeze=False)
    for panel, (model, embeds) in zip(axes[0], image_embeds.items(), strict=True):
        places = place_in_plane(embeds[rows].cpu().float().numpy(), seed=seed)
        for name in ["others", *largest] if len(names) > len(largest) else largest:
            is_in = np.array([(groups[row] if groups[row] in largest else "others") == name for row in rows])
            color = WRONG if name == "others" else COLORS[largest.index(name)]
            panel.scatter(*places[is_in].T, s=9, color=color, linewidths=0, label=drawable(name, ascii(name)))
        panel.set_title(model, fontsize=11, color=INK)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_color(WRONG)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="lower center",
        ncols=5,
        frameon=False,
        markerscale=2.5,
        fontsize=9,
    )
    figure.subplots_adjust(left=0.02, right=0.98, top=0.93, bottom=0.14, wspace=0.05)
    save(figure, path)


def place_in_plane(embeds: np.ndarray, *, seed: int) -> np.ndarray:
    """Coordinates of shape (rows, 2) by t-SNE on the cosine distance; too few rows for it are projected."""
    if len(embeds) < 10:
        centered = embeds - embeds.mean(axis=0)
        return (centered @ np.linalg.svd(centered, full_matrices=False)[2][:2].T)[:, :2]
    perplexity = min(30, (len(embeds) - 1) // 3)
    return TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(embeds)


def save(figure: Any, path: Path) -> None:
    """Writes and closes a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor=PAPER, bbox_inches="tight")
    plt.close(figure)
