"""Takes the encoded image out of a cell: bytes, `{bytes, path}` or a path below the source's folder."""

import os
from typing import Any

from modeling_mofi.data.images import URI, UnreadableImage
from modeling_mofi.data.images import image_bytes as encoded_bytes


def is_url(path: Any) -> bool:
    """Whether an image is named by a URL of any scheme; URLs are never fetched."""
    found = URI.match(path) if isinstance(path, str) else None
    return found is not None and found[1] is None


def image_bytes(cell: Any, *, root: str) -> bytes:
    """The encoded image behind a cell.

    Args:
        root: Folder that paths are relative to, without links in it.

    Raises:
        UnreadableImage: With the reason.
    """
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, str) and cell and not URI.match(cell):
        cell = path_below(cell, root=root)
    return encoded_bytes(cell)


def path_below(path: str, *, root: str) -> str:
    """The file that a path names, which has to lie below a folder.

    Raises:
        UnreadableImage: With the reason.
    """
    try:
        full = os.path.realpath(os.path.join(root, path))
    except ValueError:  # A NUL in the path, or a lone surrogate.
        raise UnreadableImage("image file missing", path) from None
    if os.path.commonpath([root, full]) != root:
        raise UnreadableImage("image path outside the folder", path)
    return full
