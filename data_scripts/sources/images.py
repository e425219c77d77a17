"""Takes the encoded image out of a cell: bytes, `{bytes, path}` or a path; or says briefly why there is none."""

import errno
import os
import re
import stat
from typing import Any


MAX_IMAGE_BYTES = 100_000_000  # Larger files are dropped unread.
URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
ERRORS = {
    errno.ENOENT: "image file missing",
    errno.ENOTDIR: "image file missing",
    errno.EISDIR: "image file missing",
    errno.ENAMETOOLONG: "image path too long",
    errno.ELOOP: "image path is a loop of links",
    errno.EACCES: "image file unreadable",
}


def is_url(path: Any) -> bool:
    """Whether an image is named by a URL of any scheme; URLs are never fetched."""
    return isinstance(path, str) and URL.match(path) is not None


def image_bytes(value: Any, *, root: str) -> bytes | str:
    """The encoded image behind a cell, or a reason.

    Args:
        root: Folder that paths are relative to, without links in it.
    """
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "image file too large" if len(value) > MAX_IMAGE_BYTES else bytes(value)
    if value is not None or not isinstance(path, (str, type(None))):
        return f"image column holds a {type(path if value is None else value).__name__}"
    if not path:
        return "no image"
    return read_image_file(path, root=root)


def read_image_file(path: str, *, root: str) -> bytes | str:
    """Reads an image below a folder, or gives a reason; a path that leads out of the folder is not followed."""
    if is_url(path):
        return "image is a URL"
    if path[:5].lower() == "data:":
        return "image is a data URI"
    try:
        full = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath([root, full]) != root:
            return "image path outside the folder"
        with open(full, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return "image path is no file"
            data = file.read(MAX_IMAGE_BYTES + 1) if status.st_size <= MAX_IMAGE_BYTES else None
        return "image file too large" if data is None or len(data) > MAX_IMAGE_BYTES else data
    except OSError as error:
        return ERRORS.get(error.errno or 0, "image file unreadable")
    except ValueError:  # A NUL in the path, or a lone surrogate.
        return "image file missing"


def open_at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe without waiting for its other end, which may never come."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
