"""Fingerprints of input files, and writing in one piece: a reader sees a whole file or none."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HEAD_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_settings(settings: Any) -> str:
    """sha256 of anything JSON can say; keys in any order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()


@contextmanager
def write_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder; it takes the place of `path` if the block ends well.

    Raises:
        OSError: As the block raised it, with the path that could not be written in its message.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a NumPy array in one piece."""
    with write_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def remove_siblings(folder: Path) -> None:
    """Removes what lies beside a folder: the work of other settings."""
    for other in folder.parent.glob("*"):
        if other.is_file():
            other.unlink(missing_ok=True)
        elif other != folder:
            shutil.rmtree(other, ignore_errors=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON in one piece, keys sorted, so that equal contents are equal bytes."""
    with write_whole(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def try_read_json(path: str | os.PathLike) -> Any | None:
    """Reads JSON; None if the file is missing or was cut short."""
    try:
        return read_json(path)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
