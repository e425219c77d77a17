"""Writes files that appear whole or not at all, also after a crash of the machine."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


# In the name of every file being written, so that what a killed process leaves behind can be recognized.
TEMPORARY = ".tmp."


@contextmanager
def write_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder; it takes the place of `path` if the block ends well.

    Raises:
        OSError: With the path, if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
    try:
        with failures_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            # Renaming alone may outlive a crash that the content does not.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def failures_named(path: str | os.PathLike) -> Iterator[None]:
    """Names a file or folder in the error if it cannot be written: the disk may be full. Errors of others pass.

    Raises:
        OSError: With the path and the reason; safetensors raises its own error, which lacks the path.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        names = [str(name) for key in ("filename", "filename2") if (name := getattr(error, key, None)) is not None]
        is_ours = not names or any(name.startswith(str(path)) for name in names)
        if not is_ours or "cannot write" in str(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(getattr(error, "errno", None), f"cannot write {path}: {reason}") from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text as UTF-8."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON, keys sorted, so that equal contents are equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def try_read_json(path: str | os.PathLike) -> Any | None:
    """Reads JSON; None if the file is missing or was cut short."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def remove_temporary_files(folder: Path) -> None:
    """Removes what killed processes left half written in a folder and below it; no one may write there now."""
    for path in folder.rglob(f"*{TEMPORARY}????????"):
        path.unlink(missing_ok=True)
