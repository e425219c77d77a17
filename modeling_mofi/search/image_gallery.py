"""A gallery of your own images, searched with images or texts."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..data.images import UnreadableImage, read_image
from .encoder import MofiEncoder, Queries
from .vector_search import VectorSearch, check_lists


logger = logging.getLogger(__name__)

SILENT_SECONDS = 5
SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass
class FoundImage:
    """An image of the gallery: its path or name, and its cosine with the query."""

    path: str
    similarity: float


class ImageGallery:
    """Images as embeddings.

    Args:
        vectors: Unit length, `[N, D]`.
        paths: One per image.
        encoder: Embeds the queries.
    """

    def __init__(self, vectors: torch.Tensor, paths: Sequence[str], encoder: MofiEncoder):
        check_lists(vectors=vectors, paths=paths)
        self.vectors, self.paths, self.encoder = vectors, list(paths), encoder
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, encoder: MofiEncoder) -> "ImageGallery":
        """Embeds all images below a folder; files that cannot be read are listed in `unreadable`.

        Raises:
            ValueError: If there is no readable image.
        """
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
        vectors, paths, unreadable = [torch.empty(0, encoder.projection_dim)], [], {}
        starts = range(0, len(files), encoder.batch_size)
        for start in tqdm(starts, desc="embed images", unit="batch", delay=SILENT_SECONDS):
            images, readable = read_images(files[start : start + encoder.batch_size], unreadable)
            vectors.append(encoder.encode_images(images))
            paths += readable
        if not paths:
            raise ValueError(f"{folder} has no readable image ({len(files)} image files, none could be opened).")
        for path, reason in unreadable.items():
            logger.warning("left out: %s: %s", path, reason)
        gallery = cls(torch.cat(vectors), paths, encoder)
        gallery.unreadable = unreadable
        return gallery

    def search(self, queries: Queries, *, k: int = 5) -> list[list[FoundImage]]:
        """Finds the k images most similar to each image, image file, text or embedding; one of them is one query."""
        similarities, rows = VectorSearch(self.vectors).top_k(self.encoder.encode(queries), k=k)
        return [
            [FoundImage(self.paths[row], similarity) for similarity, row in zip(*found, strict=True)]
            for found in zip(similarities.tolist(), rows.tolist(), strict=True)
        ]

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file with the vectors and, as metadata, the paths."""
        save_file({"vectors": self.vectors}, path, metadata={"format": "pt", "paths": json.dumps(self.paths)})

    @classmethod
    def load(cls, path: str | os.PathLike, encoder: MofiEncoder) -> "ImageGallery":
        """Reads what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            return cls(file.get_tensor("vectors"), json.loads(file.metadata()["paths"]), encoder)


def read_images(files: Sequence[Path], unreadable: dict[str, str]) -> tuple[list[Image.Image], list[str]]:
    """The images that can be read, and their paths; the reasons of the others are noted."""
    images, paths = [], []
    for path in files:
        try:
            images.append(read_image(path))
            paths.append(str(path))
        except UnreadableImage as error:
            unreadable[str(path)] = str(error)
    return images, paths
