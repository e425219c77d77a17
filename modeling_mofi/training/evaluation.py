"""Evaluates retrieval while training: embeds labelled images on all processes, scores them on the main one."""

from collections.abc import Callable
from typing import Any

import torch

from ..data.images import read_image
from ..data.parquet_rows import ParquetRows
from ..distributed_mofi import gather_rows, process_place, row_counts
from ..pretraining import MofiForPreTraining
from ..processing_mofi import MofiProcessor


class RetrievalEvaluation:
    """Callable that evaluates a model on images with labels.

    Args:
        rows: With `image` and `label`; every image must be readable.
        compute: From unit-length embeddings `[images, D]` (fp32, on the CPU) and labels to metrics in order; called on
            the main process.
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

    def __call__(self, model: MofiForPreTraining) -> dict[str, float]:
        """Returns the metrics, on every process."""
        rank, num_processes = process_place()
        share = -(-len(self.rows) // num_processes)
        # As many on each process, which wrappers need: the last row is repeated, and cut off when all are gathered.
        places = [min(place, len(self.rows) - 1) for place in range(rank * share, (rank + 1) * share)]
        embeds = torch.cat(
            [self._embed(model, places[i : i + self.batch_size]) for i in range(0, share, self.batch_size)]
        )
        embeds = gather_rows(embeds, row_counts(embeds))[: len(self.rows)].cpu()
        metrics = self.compute(embeds, self._labels()) if rank == 0 else {}
        return from_main(metrics, device=model.device)

    def _labels(self) -> list[Any]:
        """Labels in order, without a look at the images."""
        rows = self.rows.with_columns({name: key for name, key in self.rows.columns.items() if key == "label"})
        return [row["label"] for row in rows]

    def _embed(self, model: MofiForPreTraining, places: list[int]) -> torch.Tensor:
        images = [read_image(self.rows[place]["image"]) for place in places]
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"].to(model.device)
        return model(pixel_values=pixels, return_loss=False).image_embeds.float()


def from_main(metrics: dict[str, float], *, device: torch.device) -> dict[str, float]:
    """Sends the main process's metrics to all."""
    if process_place()[1] == 1:
        return metrics
    box = [metrics]
    torch.distributed.broadcast_object_list(box, src=0, device=device)
    return box[0]
