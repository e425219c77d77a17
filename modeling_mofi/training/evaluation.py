"""Evaluates retrieval while training: embeds labelled images on all processes, scores them on the main one."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from ..data.images import UnreadableImage, read_image
from ..data.parquet_rows import ParquetRows
from ..distributed_mofi import gather_rows, process_place, row_counts
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor


logger = logging.getLogger(__name__)


class RetrievalEvaluation:
    """Callable that evaluates a model on images with labels.

    Rows without a label (null, or -1 in a ClassLabel) are left out and logged, as are images that cannot be read.

    Args:
        rows: With `image` and `label`.
        compute: From unit-length embeddings `[images, D]` (fp32, on the CPU) and labels to metrics in order; called on
            the main process.

    Raises:
        ValueError: If the labels are neither all strings nor all ints.
    """

    def __init__(
        self,
        rows: ParquetRows,
        processor: MofiProcessor,
        *,
        compute: Callable[[torch.Tensor, list[Any]], dict[str, float]],
        batch_size: int,
    ):
        self.rows, self.processor, self.compute, self.batch_size = rows, processor, compute, batch_size
        self.labels = read_labels(rows)

    def __call__(self, model: MofiForPreTraining) -> dict[str, float]:
        """Returns the metrics, on every process."""
        rank, num_processes = process_place()
        indices = list(self.labels)
        share = -(-len(indices) // num_processes)
        # As many on each process, which wrappers need: the last row is repeated, and cut off when all are gathered.
        places = [min(place, len(indices) - 1) for place in range(rank * share, (rank + 1) * share)]
        batches = [places[start : start + self.batch_size] for start in range(0, share, self.batch_size)]
        embeds = torch.cat([self._embed(model, [indices[place] for place in batch]) for batch in batches])
        embeds = gather_rows(embeds, row_counts(embeds))[: len(indices)].cpu()
        is_readable = embeds[:, -1] == 1
        labels = [label for label, kept in zip(self.labels.values(), is_readable.tolist(), strict=True) if kept]
        metrics = self.compute(embeds[is_readable, :-1], labels) if rank == 0 else {}
        return from_main(metrics, device=model.device)

    def _embed(self, model: MofiForPreTraining, indices: list[int]) -> torch.Tensor:
        """Embeddings, with one more column: 1 where the image can be read, else 0. `[len(indices), D + 1]`."""
        images = [self._read(index) for index in indices]
        is_readable = torch.tensor([[float(image is not None)] for image in images], device=model.device)
        images = [image or Image.new("RGB", (1, 1)) for image in images]
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"].to(model.device)
        embeds = model(pixel_values=pixels, return_loss=False).image_embeds.float()
        return torch.cat([embeds, is_readable], dim=1)

    def _read(self, index: int) -> Image.Image | None:
        try:
            return read_image(self.rows[index]["image"], folders=self.rows.folders)
        except UnreadableImage as error:
            logger.warning("image %d of the evaluation is left out: %s", index, error)
            return None


def read_labels(rows: ParquetRows) -> dict[int, str | int]:
    """Label by index of the rows that have one; no image is looked at.

    Raises:
        ValueError: If the labels are neither all strings nor all ints, or no row has one.
    """
    column = next(name for name, key in rows.columns.items() if key == "label")
    nothing = (None, -1) if is_class_label(rows.schemas[0], column) else (None,)
    found = [row["label"] for row in rows.with_columns({column: "label"})]
    labels = {index: label for index, label in enumerate(found) if label not in nothing}
    if {type(label) for label in labels.values()} not in ({str}, {int}):
        kinds = ", ".join(sorted({type(label).__name__ for label in labels.values()})) or "all missing"
        raise ValueError(f"The labels in {column!r} of {rows.files[0]} are {kinds}; they must be all strings or ints.")
    if len(labels) < len(found):
        logger.warning("%d of %d rows to evaluate on have no %s", len(found) - len(labels), len(found), column)
    return labels


def is_class_label(schema: pa.Schema, column: str) -> bool:
    """Whether `datasets` wrote a column as a ClassLabel, in which -1 stands for no label."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = written.get("info", {}).get("features", {}).get(column, {})
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def from_main(metrics: dict[str, float], *, device: torch.device) -> dict[str, float]:
    """Sends the main process's metrics to all."""
    if process_place()[1] == 1:
        return metrics
    box = [metrics]
    torch.distributed.broadcast_object_list(box, src=0, device=device)
    return box[0]
