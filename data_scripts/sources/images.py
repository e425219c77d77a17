"""Takes the encoded image out of a cell: bytes, `{bytes, path}` or a path; or says briefly why there is none."""

import os
import re
from typing import Any

from modeling_mofi.data.images import DEFAULT_BOUNDS, UnreadableImage, read_file


MAX_IMAGE_BYTES = DEFAULT_BOUNDS.max_bytes  # Larger files are dropped unread.
URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


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
        return read_file(full, max_bytes=MAX_IMAGE_BYTES)
    except UnreadableImage as error:
        return str(error)
    except OSError:
        return "image file unreadable"
    except ValueError:  # A NUL in the path, or a lone surrogate.
        return "image file missing"
