"""What processes that train together exchange: numbers of rows, rows with their gradients, sums.

With one process every function here returns what it was given.
"""

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def process_place() -> tuple[int, int]:
    """Rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def row_counts(rows: torch.Tensor) -> list[int]:
    """Number of rows `[B, ...]` that each process holds."""
    rank, num_processes = process_place()
    if num_processes == 1:
        return [len(rows)]
    counts = torch.zeros(num_processes, dtype=torch.long, device=rows.device)
    counts[rank] = len(rows)
    dist.all_reduce(counts)
    return counts.tolist()


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Concatenates the rows of all processes in rank order: `[B, ...]` to `[N, ...]`, gradients included.

    Args:
        counts: `row_counts(rows)`; processes may hold different numbers of rows.
    """
    return _GatherRows.apply(rows, counts) if len(counts) > 1 else rows


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward returns to each process the sum of all processes' gradients for its rows."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # A clone: the engine may still need what it passed.
        gradient = all_reduce(gradient.clone(memory_format=torch.contiguous_format), "SUM")
        return gradient.split(ctx.counts)[dist.get_rank()], None


def all_reduce(values: torch.Tensor, operation: str) -> torch.Tensor:
    """Reduces a tensor over processes, in place, by `"SUM"`, `"MAX"` or `"MIN"`."""
    if is_distributed():
        dist.all_reduce(values, op=getattr(dist.ReduceOp, operation))
    return values


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if is_distributed():
        dist.barrier()
