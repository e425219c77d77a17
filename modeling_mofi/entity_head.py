"""The entity head: one unit vector per entity, millions of them, shared out over processes and updated row by row."""

import torch
import torch.nn.functional as F
from torch import nn

from .distributed_mofi import gather_rows, process_place, row_counts
from .losses_mofi import MAX_LOGITS
from .margin_softmax import margin_softmax_loss
from .sharded_rows import own_rows


# On a GPU, blocks of 2 GiB: with two million entities a block then has enough images for a matrix product to be bound
# by arithmetic, not by reading every entity's row once more.
MAX_LOGITS_ON_GPU = 2**29
ROWS_PER_BLOCK = 4096  # Initial rows are drawn block by block, so that they do not depend on who owns them.


class MofiEntityHead(nn.Module):
    """Cosine softmax with a margin over `num_entities` classes, of which each process owns a contiguous range.

    A step costs what it samples, not what exists: rows are looked up sparsely, so an optimizer that understands
    sparse gradients (`torch.optim.SparseAdam`) leaves rows that were not sampled, and their moments, bit-unchanged.
    Keep the head out of data-parallel wrappers: each process alone updates the rows it owns.

    Args:
        num_entities: Number of classes C over all processes.
        projection_dim: Size D of the embeddings.
        scale: Inverse temperature of the softmax; 32 is our default.
        margin: Subtracted from the cosine of the right entity; 0.15 is our default.
        num_sampled_entities: Entities that each step draws besides those of its batch, or None for all.
        precision: Of what the softmax multiplies, as for `margin_softmax_loss`.
        seed: Of the initial rows and of the sampling; `sampling_step` is the other half of the latter.
    """

    def __init__(
        self,
        num_entities: int,
        projection_dim: int,
        *,
        scale: float = 32.0,
        margin: float = 0.15,
        num_sampled_entities: int | None = None,
        precision: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if num_sampled_entities is not None and num_sampled_entities < 1:
            raise ValueError(f"num_sampled_entities is {num_sampled_entities}; it must be positive, or null for all.")
        if num_entities < process_place()[1]:
            raise ValueError(f"num_entities is {num_entities}; each of {process_place()[1]} processes needs a row.")
        self.num_entities = num_entities
        self.scale, self.margin, self.precision, self.seed = scale, margin, precision, seed
        self.num_sampled_entities = num_sampled_entities
        self.sampling_step = 0
        self._sampled: tuple[int | None, torch.Tensor | None] = None, None  # Step and rows of `own_sample`.
        self.first_row, self.end_row = own_rows(num_entities)
        self.weight = nn.Parameter(torch.empty(self.end_row - self.first_row, projection_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws every row at random; row i is the same for any number of processes."""
        if self.weight.is_meta:
            return
        for block in range(self.first_row // ROWS_PER_BLOCK, -(-self.end_row // ROWS_PER_BLOCK)):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + block)
            rows = torch.randn(ROWS_PER_BLOCK, self.weight.shape[1], generator=generator)
            first = block * ROWS_PER_BLOCK
            start, end = max(first, self.first_row), min(first + ROWS_PER_BLOCK, self.end_row)
            self.weight[start - self.first_row : end - self.first_row] = F.normalize(rows[start - first : end - first])

    def forward(
        self, image_embeds: torch.Tensor, entity_labels: torch.Tensor, entity_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes this process's share of the entity loss.

        Args:
            image_embeds: Unit-length `[B, D]`.
            entity_labels: `[B]`; a negative label leaves its row out.
            entity_weights: `[B]`, each 0 or more: how much each row counts beside the others; None for all alike.

        Returns:
            Scalar; its mean over processes is the (weighted) mean over all labeled rows of the global batch.

        Raises:
            ValueError: If a label is not below `num_entities`.
        """
        entity_labels = entity_labels.view(-1)
        if entity_labels.device.type == "cpu":  # Otherwise `MofiTrainer` has, before they left the CPU.
            self.check_labels(entity_labels)
        counts = row_counts(image_embeds)
        all_embeds = gather_rows(image_embeds.float(), counts)  # [N, D]
        all_labels = gather_rows(entity_labels, counts)  # [N]
        index, target_columns = self._select_rows(all_labels)
        rows = F.embedding(index, self.weight, sparse=True)  # [S, D]
        weights = (all_labels >= 0).float()
        if entity_weights is not None:
            weights = weights * gather_rows(entity_weights.view(-1).float(), counts)
        total = weights.sum()
        first = sum(counts[: process_place()[0]])
        loss, _ = margin_softmax_loss(
            all_embeds,
            rows,
            target_columns,
            # Where nothing counts, the sum is 0, and so is the loss.
            weights=weights * len(counts) / total.where(total > 0, 1.0),
            scale=self.scale,
            margin=self.margin,
            own=slice(first, first + len(entity_labels)),
            chunk_size=self.chunk_size(batch_size=len(all_embeds)),
            precision=self.precision,
        )
        return loss

    def check_labels(self, entity_labels: torch.Tensor) -> None:
        """Raises ValueError if a label is not below `num_entities`."""
        if entity_labels.numel() and entity_labels.max() >= self.num_entities:
            raise ValueError(
                f"entity_label {int(entity_labels.max())} is outside [0, {self.num_entities}). The dataset and its "
                "entities.parquet come from different builds; rebuild with --restart_from label_entities."
            )

    @property
    def is_sampled(self) -> bool:
        """Whether a step uses some of the entities only."""
        return self.num_sampled_entities is not None and self.num_sampled_entities < self.num_entities

    def _select_rows(self, all_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses own rows `[S]` for this step and the column of each target among them, -1 if it is another's."""
        is_own = (all_labels >= self.first_row) & (all_labels < self.end_row)
        local_labels = (all_labels - self.first_row).clamp(0, max(0, len(self.weight) - 1))
        if not self.is_sampled:
            index = torch.arange(len(self.weight), device=self.weight.device)
        else:
            sample = self.own_sample()
            # A label of others stands for a row that is there anyway: to leave it out would wait for a GPU once more.
            present = local_labels.where(is_own, sample[0]) if len(sample) else local_labels[is_own]
            index = torch.cat([sample, present]).unique()  # Sorted.
        columns = torch.searchsorted(index, local_labels)
        return index, columns.where(is_own, -1)

    def own_sample(self) -> torch.Tensor:
        """This process's rows among `sampled_entities`, ascending; drawn once a step."""
        if self._sampled[0] != self.sampling_step:
            sampled = self.sampled_entities()
            rows = sampled[(sampled >= self.first_row) & (sampled < self.end_row)] - self.first_row
            device = self.weight.device
            rows = (rows.pin_memory() if device.type == "cuda" else rows).to(device, non_blocking=True)
            self._sampled = self.sampling_step, rows
        return self._sampled[1]

    def sampled_entities(self) -> torch.Tensor:
        """Draws `num_sampled_entities` distinct entities, one from each of as many equal strata of all labels.

        The draw is a function of `seed` and `sampling_step` alone; every process makes the same one.
        """
        count = self.num_sampled_entities
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.sampling_step)
        edges = torch.arange(count + 1) * self.num_entities // count
        offsets = torch.rand(count, generator=generator, dtype=torch.float64) * (edges[1:] - edges[:-1])
        return edges[:-1] + offsets.long()

    def chunk_size(self, *, batch_size: int) -> int:
        """Images of N = `batch_size` whose logits a step holds at once, the same on every process."""
        max_logits = MAX_LOGITS if self.weight.device.type == "cpu" else MAX_LOGITS_ON_GPU
        return max(1, min(batch_size, max_logits // self.num_step_rows(batch_size=batch_size)))

    def planned_bytes(self, *, batch_size: int) -> tuple[int, int]:
        """Bytes that the head holds, and that a step with N = `batch_size` global rows adds at its peak."""
        row = self.weight.shape[1] * 4
        held = 3 * len(self.weight) * row  # Rows and two moments.
        num_rows = self.num_step_rows(batch_size=batch_size)
        # Looked-up rows, unit rows, their gradients, and what the update makes of the latter.
        step = 6 * num_rows * row + 4 * self.chunk_size(batch_size=batch_size) * num_rows + 3 * batch_size * row
        if self.precision == "bf16":  # The rows and the gradient of the logits once more, at half the size.
            step += num_rows * row // 2 + 2 * self.chunk_size(batch_size=batch_size) * num_rows
        return held, step

    def num_step_rows(self, *, batch_size: int) -> int:
        """Rows S of a process that a step with N = `batch_size` global rows uses at most, the same on every one."""
        num_processes = process_place()[1]
        most = -(-self.num_entities // num_processes)
        if self.num_sampled_entities is None:
            return most
        return min(most, self.num_sampled_entities // num_processes + 1 + batch_size)

    def memory_plan(self, *, batch_size: int) -> str:
        """Says in one line what the head holds and what a step with N = `batch_size` global rows adds, in MB."""
        num_rows, dim = self.weight.shape
        held, step = (size / 2**20 for size in self.planned_bytes(batch_size=batch_size))
        return (
            f"entity head: {self.num_entities:,} entities, {num_rows:,} rows x {dim} on this process; {held:,.1f} MB "
            f"rows and moments, {step:,.1f} MB per step over {self.num_step_rows(batch_size=batch_size):,} rows"
        )

    def extra_repr(self) -> str:
        return f"{self.num_entities} entities, rows {self.first_row} to {self.end_row}, margin {self.margin}"
