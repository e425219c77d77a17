"""What a training run measures between two lines of its log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..distributed_mofi import all_reduce, process_place


logger = logging.getLogger(__name__)

MAX_WAIT_SHARE = 0.1


class TrainingLog:
    """Sums of losses, images and seconds since the last line of the log."""

    def __init__(self) -> None:
        self.num_unreadable = 0
        self.restart()

    def restart(self) -> None:
        """Begins a new line; the number of unreadable images is kept, as it counts over the whole run."""
        self.loss_sums: dict[str, torch.Tensor] = {}
        self._batches: list[tuple[dict[str, torch.Tensor], int]] = []  # Of the step that is under way.
        self.num_steps = self.num_images = 0
        self.waited_seconds, self.started = 0.0, time.perf_counter()

    def note(self, outputs: Any, *, num_images: int) -> None:
        """Takes the losses of a batch of this process, until `close_step` says whether they count."""
        losses = {name: getattr(outputs, name) for name in ("contrastive_loss", "entity_loss")}
        losses = {name: loss.detach() for name, loss in losses.items() if loss is not None}
        self._batches.append((losses, num_images))

    def close_step(self, *, is_usable: bool) -> None:
        """Adds what was noted since the step before, unless the step is skipped."""
        for losses, num_images in self._batches if is_usable else ():
            self.num_steps += 1
            self.num_images += num_images
            for name, loss in losses.items():
                self.loss_sums[name] = self.loss_sums.get(name, 0) + loss
        self._batches.clear()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the seconds inside as waiting for data."""
        started = time.perf_counter()
        yield
        self.waited_seconds += time.perf_counter() - started

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Leaves out the seconds inside, which are no training."""
        started = time.perf_counter()
        yield
        self.started += time.perf_counter() - started

    def line(self, *, device: torch.device) -> dict[str, float]:
        """Loss parts averaged over steps and processes, images per second of all, share of time spent waiting."""
        seconds, num_processes = time.perf_counter() - self.started, process_place()[1]
        line = {
            name: (all_reduce(total.float().clone(), "SUM") / num_processes / self.num_steps).item()
            for name, total in self.loss_sums.items()
        }
        line["images_per_second"] = round(self.num_images * num_processes / seconds, 1)
        line["data_wait_share"] = share = round(self.waited_seconds / seconds, 4)
        if share > MAX_WAIT_SHARE:
            logger.warning(
                "%.0f%% of the time is spent waiting for images: raise dataloader_num_workers, store smaller images, "
                "or set keep_decoded for a small dataset",
                100 * share,
            )
        num_unreadable = all_reduce(torch.tensor(self.num_unreadable, device=device), "SUM").item()
        return {**line, "unreadable_images": num_unreadable} if num_unreadable else line
