"""Evaluates while training: embeds a labeled split on all processes, scores it on the main one.

An image may have several labels, as in a build's own validation split: any that it shares with another counts.
"""

import json
import logging
from collections.abc import Hashable, Sequence
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from ..data.entity_table import EntityTable
from ..data.images import UnreadableImage, read_image
from ..distributed_mofi import gather_rows, process_place, row_counts
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor
from .retrieval_scores import naming_accuracy, retrieval_map, text_recall


logger = logging.getLogger(__name__)


class RetrievalEvaluation:
    """Callable that evaluates a model on images with labels.

    Images that cannot be read, or have no label, are left out and counted.

    Args:
        rows: With `image` and `label`, which may be a list; with `alt_text`, recall of texts is measured too.
        entities: What the labels stand for: images are then named among those that the split shows.
        num_workers: Processes that decode images.

    Raises:
        ValueError: If the labels are neither all strings nor all ints, or no row has one.
    """

    def __init__(
        self,
        rows: Any,
        processor: MofiProcessor,
        *,
        batch_size: int,
        num_workers: int = 0,
        entities: EntityTable | None = None,
    ):
        self.rows, self.processor, self.entities = rows, processor, entities
        self.batch_size, self.num_workers = batch_size, num_workers
        self.labels = read_labels(rows)
        self.places = [place for place, labels in enumerate(self.labels) if labels]

    def __call__(self, model: MofiForPreTraining) -> dict[str, float]:
        """Returns the metrics, on every process.

        Raises:
            ValueError: If no image can be read.
        """
        has_texts = model.mofi.text_model is not None
        images = self._embed_rows(model, with_texts=has_texts and "alt_text" in self.rows.column_names)
        is_readable = images.pop("is_readable").bool()
        kept = [place for place, readable in zip(self.places, is_readable.tolist(), strict=True) if readable]
        if not kept:
            raise ValueError("No labelled image of eval_dataset can be read; check its image column.")
        names = self._embed_entities(model, kept) if has_texts and self.entities is not None else None
        if process_place()[0]:
            return from_main({}, device=model.device)
        embeds = {name: values[is_readable] for name, values in images.items()}
        labels = [self.labels[place] for place in kept]
        metrics = {"retrieval_map": retrieval_map(embeds["image_embeds"], labels)}
        if "text_embeds" in embeds:
            texts = [row["alt_text"] for row in self._columns(kept, "alt_text")]
            metrics |= text_recall(embeds["image_embeds"], embeds["text_embeds"], texts)
        if names is not None:
            metrics["naming_accuracy"] = naming_accuracy(embeds["image_embeds"], labels, *names)
        metrics["num_images"] = len(kept)
        metrics["num_unreadable"] = len(self.places) - len(kept)
        metrics["num_unlabeled"] = len(self.labels) - len(self.places)
        return from_main(metrics, device=model.device)

    def _columns(self, places: Sequence[int], *names: str) -> list[dict[str, Any]]:
        rows = self.rows.with_columns({name: key for name, key in self.rows.columns.items() if key in names})
        return [rows[place] for place in places]

    def _embed_rows(self, model: MofiForPreTraining, *, with_texts: bool) -> dict[str, torch.Tensor]:
        """Embeddings `[images, D]` of labeled images and their texts, in order, and which images are readable."""
        share = own_share(self.places)
        dataset = EvaluationImages(self.rows, self.processor, share)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=list
        )
        parts: dict[str, list[torch.Tensor]] = {}
        for batch in loader:
            inputs = {"pixel_values": torch.stack([pixels for pixels, _, _ in batch]).to(model.device)}
            if with_texts:
                inputs |= self._tokens([text or "" for _, text, _ in batch], model)
            outputs = model(**inputs, return_loss=False)
            is_readable = torch.tensor([[float(readable)] for _, _, readable in batch], device=model.device)
            found = {"image_embeds": outputs.image_embeds, "text_embeds": outputs.text_embeds}
            for name, values in {**found, "is_readable": is_readable}.items():
                if values is not None:
                    parts.setdefault(name, []).append(values.float())
        return {name: gathered(torch.cat(values), len(self.places)).squeeze(1) for name, values in parts.items()}

    def _embed_entities(self, model: MofiForPreTraining, places: list[int]) -> tuple[list[int], torch.Tensor]:
        """Labels that the split shows, and the embeddings of their entities' names, `[labels, D]`."""
        shown = sorted({label for place in places for label in self.labels[place]})
        share, parts = own_share(shown), []
        # Through the whole model, whose wrappers may hold its weights, with one image that nobody looks at.
        image = self.processor.image_processor(Image.new("RGB", (32, 32)), return_tensors="pt")["pixel_values"]
        for start in range(0, len(share), self.batch_size):
            names = [self.entities[label]["name"] for label in share[start : start + self.batch_size]]
            outputs = model(pixel_values=image.to(model.device), **self._tokens(names, model), return_loss=False)
            parts.append(outputs.text_embeds.float())
        return shown, gathered(torch.cat(parts), len(shown))

    def _tokens(self, texts: list[str], model: MofiForPreTraining) -> dict[str, torch.Tensor]:
        inputs = self.processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}


class EvaluationImages(torch.utils.data.Dataset):
    """Pixels of rows at some places, their text, and whether the image could be read; black where it could not."""

    def __init__(self, rows: Any, processor: MofiProcessor, places: Sequence[int]):
        self.rows, self.processor, self.places = rows, processor, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str | None, bool]:
        row, is_readable = self.rows[self.places[index]], True
        try:
            image = read_image(row["image"], folders=self.rows.folders)
        except UnreadableImage as error:
            logger.warning("image %d of the evaluation is left out: %s", self.places[index], error)
            image, is_readable = Image.new("RGB", (32, 32)), False
        pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels, row.get("alt_text"), is_readable


def read_labels(rows: Any) -> list[list[Hashable]]:
    """Labels of every row, none of which may have any; no image is looked at.

    A null is no label, nor is -1 in a ClassLabel; strings stay strings.

    Raises:
        ValueError: If the labels are neither all strings nor all ints, or no row has one.
    """
    column = next(name for name, key in rows.columns.items() if key == "label")
    nothing = (None, -1) if is_class_label(rows.schemas[0], column) else (None,)
    found = [row["label"] for row in rows.with_columns({column: "label"})]
    lists = [value if isinstance(value, list) else [value] for value in found]
    labels = [[label for label in values if label not in nothing] for values in lists]
    if (kinds := {type(label) for values in labels for label in values}) not in ({str}, {int}):
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "all missing"
        raise ValueError(f"The labels in {column!r} of {rows.files[0]} are {names}; they must be all strings or ints.")
    if num_missing := sum(not values for values in labels):
        logger.warning("%d of %d rows to evaluate on have no %s", num_missing, len(labels), column)
    return labels


def is_class_label(schema: pa.Schema, column: str) -> bool:
    """Whether `datasets` wrote a column as a ClassLabel, in which -1 stands for no label."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = written.get("info", {}).get("features", {}).get(column, {})
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def own_share(values: Sequence[int]) -> list[int]:
    """This process's share of values; as many on each, which wrappers need: the last is repeated."""
    rank, num_processes = process_place()
    size = -(-len(values) // num_processes)
    return [values[min(place, len(values) - 1)] for place in range(rank * size, (rank + 1) * size)]


def gathered(values: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Joins the shares of all processes, on the CPU, without what was repeated at the end."""
    return gather_rows(values, row_counts(values))[:num_rows].cpu()


def from_main(metrics: dict[str, float], *, device: torch.device) -> dict[str, float]:
    """Sends the main process's metrics to all."""
    if process_place()[1] == 1:
        return metrics
    box = [metrics]
    torch.distributed.broadcast_object_list(box, src=0, device=device)
    return box[0]
