"""Fingerprints of files and settings, and arrays written in one piece."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from modeling_mofi.whole_files import write_whole


HEAD_BYTES = 1 << 20


def fingerprint_file(path: str | os.PathLike) -> str:
    """Size and the hash of the first and last MiB: notices another file, and is cheap on a terabyte."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(HEAD_BYTES))
        file.seek(max(0, size - HEAD_BYTES))
        digest.update(file.read(HEAD_BYTES))
    return digest.hexdigest()


def hash_file(path: str | os.PathLike) -> str:
    """sha256 of a whole file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_settings(settings: Any) -> str:
    """sha256 of anything JSON can say; keys in any order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a NumPy array in one piece."""
    with write_whole(path) as temporary:
        save_array(temporary, array)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a NumPy array to a path of any ending."""
    with path.open("wb") as file:
        np.save(file, array)


def save_arrays(path: Path, **arrays: np.ndarray | float) -> None:
    """Writes named NumPy arrays to a path of any ending."""
    with path.open("wb") as file:
        np.savez(file, **arrays)


def remove_siblings(folder: Path) -> None:
    """Removes what lies beside a folder: the work of other settings."""
    for other in folder.parent.glob("*"):
        if other.is_file():
            other.unlink(missing_ok=True)
        elif other != folder:
            shutil.rmtree(other, ignore_errors=True)
