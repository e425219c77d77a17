"""Draws what models found on a benchmark: contact sheets, a map of the embeddings, bars of the results."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmark import Benchmark, Scores
from evaluation.figures import (
    Pictures,
    bar_chart,
    choose_queries,
    embedding_map,
    open_set_chart,
    retrieval_sheet,
)
from evaluation.gpr1200 import CATEGORIES_PER_DOMAIN, DOMAINS
from evaluation.label_sets import labels_of
from evaluation.labeled_images import LabeledImages
from evaluation.results import Result, Value, shared_metric


logger = logging.getLogger(__name__)


@dataclass
class FoundImages:
    """The images of a benchmark with the embeddings of each model."""

    benchmark: Benchmark
    query: LabeledImages
    gallery: LabeledImages | None
    found: dict[str, Scores]

    def draw_all(self, folder: Path, name: str, *, count: int, seed: int) -> None:
        """Draws `<name>-map.png`, and of retrieval `-retrievals.png`, `-best.png` and `-worst.png`."""
        slug = slug_of(name)
        self.draw_map(folder / f"{slug}-map.png", seed=seed)
        if "mAP" in next(iter(self.found.values())).by_query:
            self.draw_random(folder / f"{slug}-retrievals.png", count=count, seed=seed)
            for path, is_best in ((folder / f"{slug}-best.png", True), (folder / f"{slug}-worst.png", False)):
                self.draw_extreme(path, count=count, is_best=is_best)

    def draw_random(self, path: Path, *, count: int, seed: int) -> None:
        """Queries of random classes with what each model finds."""
        gallery_labels = None
        if self.first().gallery is not None:
            images = self.gallery or self.query
            gallery_labels = [images.labels[row] for row in self.first().gallery.rows]
        self.draw_sheet(path, choose_queries(self.labels(), count=count, seed=seed, gallery_labels=gallery_labels))

    def draw_extreme(self, path: Path, *, count: int, is_best: bool) -> None:
        """The best or the worst queries of the first model, at most one per class."""
        model, scores = next(iter(self.found.items()))
        precisions = scores.by_query["mAP"]
        order = np.argsort(-precisions if is_best else precisions, kind="stable")
        chosen, classes, labels = [], set(), self.labels()
        for row in order:
            if np.isnan(precisions[row]) or labels[row] in classes or len(chosen) == count:
                continue
            chosen.append(int(row))
            classes.add(labels[row])
        self.draw_sheet(path, chosen, title=f"{'best' if is_best else 'worst'} queries of {model}")

    def draw_sheet(self, path: Path, queries: list[int], *, title: str | None = None) -> None:
        """A contact sheet of these rows; none if there is no row to show."""
        if not queries:
            logger.warning("%s is not drawn: no query has an image to find", path)
            return
        embeds = {model: scores.query.image_embeds for model, scores in self.found.items()}
        has_gallery = all(scores.gallery is not None for scores in self.found.values())
        searched = self.gallery or self.query
        retrieval_sheet(
            path,
            pictures_of(self.query, self.first().query.rows, self.benchmark),
            embeds,
            queries,
            gallery=pictures_of(searched, self.first().gallery.rows, self.benchmark) if has_gallery else None,
            gallery_embeds={model: s.gallery.image_embeds for model, s in self.found.items()} if has_gallery else None,
            title=title,
        )

    def draw_map(self, path: Path, *, seed: int) -> None:
        """A 2-D map of each model's embeddings, colored by domain, by `color_column` or by label."""
        rows = self.first().query.rows
        if self.benchmark.task == "gpr1200":
            groups = [DOMAINS[label // CATEGORIES_PER_DOMAIN] for label in self.labels()]
        elif self.benchmark.color_column:
            values = self.query.column(self.benchmark.color_column)
            groups = [str(values[row]) for row in rows]
        else:
            groups = [label_caption(labels_of(label)[:1], self.query) for label in self.labels()]
        embedding_map(path, {model: s.query.image_embeds for model, s in self.found.items()}, groups, seed=seed)

    def first(self) -> Scores:
        """The scores of the first model; which rows can be read is the same for all."""
        return next(iter(self.found.values()))

    def labels(self) -> list[Any]:
        """The label of each embedding."""
        return [self.query.labels[row] for row in self.first().query.rows]


def pictures_of(images: LabeledImages, rows: list[int], benchmark: Benchmark) -> Pictures:
    """The readable images with their labels and captions."""
    labels = [images.labels[row] for row in rows]
    if benchmark.caption_column:
        names = images.column(benchmark.caption_column)
        captions = [str(names[row]) for row in rows]
    else:
        captions = [label_caption(label, images) for label in labels]
    return Pictures(lambda place: images.read(rows[place])[0], labels, captions)


def draw_curves(folder: Path, results: list[Result]) -> None:
    """Open-set curves of each benchmark that has them, `<name>-open-set.png`."""
    for name in dict.fromkeys(result.benchmark for result in results if result.curves):
        curves = {
            f"{result.model}: {way}": points
            for result in results
            if result.benchmark == name
            for way, points in result.curves.items()
        }
        open_set_chart(folder / f"{slug_of(name)}-open-set.png", curves, title=name)


def slug_of(name: str) -> str:
    """A name for files."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def label_caption(label: Any, images: LabeledImages) -> str:
    """The names of an image's classes, or the labels where they have none."""
    return ", ".join(images.label_names.get(one, str(one)) for one in labels_of(label))


def draw_bars(path: Path, results: list[Result]) -> None:
    """Bars per metric of one benchmark, or per benchmark of several by the first metric that the models share."""
    benchmarks = list(dict.fromkeys(result.benchmark for result in results))
    bars: dict[str, dict[str, Value]] = {}
    metrics = {name: shared_metric([r for r in results if r.benchmark == name]) for name in benchmarks}
    for result in results:
        values, metric = result.values, metrics[result.benchmark]
        if len(benchmarks) > 1:
            values = {f"{result.benchmark}: {metric}": values[metric]} if metric else {}
        bars.setdefault(result.model, {}).update(values)
    bar_chart(path, bars, title=benchmarks[0] if len(benchmarks) == 1 else None)
