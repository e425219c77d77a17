"""Row-wise tensors on disk, shared out over processes: saved by any number of them, loaded by any other number."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .distributed_mofi import process_place
from .whole_files import write_whole


def own_rows(num_rows: int) -> tuple[int, int]:
    """First row of this process and the end of its range; the ranges of all processes tile `[0, num_rows)`."""
    rank, num_processes = process_place()
    return num_rows * rank // num_processes, num_rows * (rank + 1) // num_processes


def save_rows(folder: str | os.PathLike, tensors: dict[str, torch.Tensor], *, name: str, num_rows: int) -> None:
    """Writes this process's range of row-wise tensors `[rows, ...]` to one safetensors file, named by rank.

    Args:
        num_rows: Rows over all processes.
    """
    rank, num_processes = process_place()
    first_row, end_row = own_rows(num_rows)
    metadata = {"format": "pt", "first_row": str(first_row), "end_row": str(end_row), "num_rows": str(num_rows)}
    path = Path(folder) / _file_name(name, rank, num_processes)
    saved = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with write_whole(path) as temporary:
        save_file(saved, temporary, metadata=metadata)
    if rank == 0:
        written = {_file_name(name, other, num_processes) for other in range(num_processes)}
        for stale in [file for file in _all_files(folder, name) if file.name not in written]:
            stale.unlink()  # Of an earlier save by another number of processes.


def _file_name(name: str, rank: int, num_processes: int) -> str:
    return f"{name}.safetensors" if num_processes == 1 else f"{name}-{rank + 1:05d}-of-{num_processes:05d}.safetensors"


def _all_files(folder: str | os.PathLike, name: str) -> list[Path]:
    single = Path(folder) / f"{name}.safetensors"
    parts = sorted(Path(folder).glob(f"{name}-?????-of-?????.safetensors"))
    return [single, *parts] if single.is_file() else parts


def num_saved_rows(folder: str | os.PathLike, *, name: str) -> int | None:
    """Number of rows over all files of a save, or None if the folder has none."""
    files = _all_files(folder, name)
    return int(_metadata(files[0])["num_rows"]) if files else None


def load_rows(folder: str | os.PathLike, *, name: str, first_row: int, end_row: int) -> dict[str, torch.Tensor]:
    """Reads rows `[first_row, end_row)` from a save by any number of processes, without reading the others.

    Raises:
        FileNotFoundError: If the folder has no such save.
        ValueError: If its files do not hold every row asked for.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    found = first_row
    for start, tensors in row_blocks(folder, name=name, first_row=first_row, end_row=end_row):
        if start != found:
            break
        for key, rows in tensors.items():
            parts.setdefault(key, []).append(rows)
            found = start + len(rows)
    if parts and found != end_row:
        raise ValueError(f"{name} in {folder} lacks the rows from {found} to {end_row}; a file is missing or partial.")
    return {key: torch.cat(rows) for key, rows in parts.items()}


def row_blocks(
    folder: str | os.PathLike, *, name: str, first_row: int = 0, end_row: int | None = None, block_size: int = 2**62
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yields `(first row, tensors)` in order of rows, block by block, from a save by any number of processes.

    Raises:
        FileNotFoundError: If the folder has no such save.
    """
    files = _all_files(folder, name)
    if not files:
        raise FileNotFoundError(f"{folder} has no {name}.safetensors and no {name}-*-of-*.safetensors.")
    for path in files:
        metadata = _metadata(path)
        offset, file_end = int(metadata["first_row"]), int(metadata["end_row"])
        end = file_end if end_row is None else min(end_row, file_end)
        with safe_open(path, framework="pt") as rows:
            for start in range(max(first_row, offset), end, block_size):
                stop = min(start + block_size, end) - offset
                yield start, {key: rows.get_slice(key)[start - offset : stop] for key in rows.keys()}  # noqa: SIM118


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as rows:
        metadata = rows.metadata() or {}
    if not {"first_row", "end_row", "num_rows"} <= set(metadata):
        raise ValueError(f"{path} does not say which rows it holds (first_row, end_row, num_rows in its metadata).")
    return metadata
