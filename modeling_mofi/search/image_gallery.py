"""A gallery of your own images, searched with images or texts."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..data.images import UnreadableImage, read_image
from .encoder import SILENT_SECONDS, MofiEncoder, Queries
from .vector_search import VectorSearch, check_lists


logger = logging.getLogger(__name__)

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
    def from_folder(
        cls, folder: str | os.PathLike, encoder: MofiEncoder, *, num_workers: int | None = None
    ) -> "ImageGallery":
        """Embeds all images below a folder; files that cannot be read are listed in `unreadable`.

        Args:
            num_workers: Threads that open the images of a batch while the model embeds the one before; by default one
                for each core, at most eight.

        Raises:
            ValueError: If there is no readable image.
        """
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
        vectors, paths, unreadable = [torch.empty(0, encoder.projection_dim)], [], {}
        for batch in read_ahead(files, batch_size=encoder.batch_size, num_workers=num_workers):
            unreadable |= {path: image for path, image in batch if isinstance(image, str)}
            readable = [(path, image) for path, image in batch if not isinstance(image, str)]
            vectors.append(encoder.encode_images([image for _, image in readable]))
            paths += [path for path, _ in readable]
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


def read_ahead(
    files: Sequence[Path], *, batch_size: int, num_workers: int | None
) -> Iterator[list[tuple[str, Image.Image | str]]]:
    """Batches of paths with their images, or with the reason why there is none; the next one is opened meanwhile."""
    num_workers = num_workers or min(8, os.cpu_count() or 1)
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(num_workers) as threads:
        waiting = threads.map(read_or_reason, batches[0]) if batches else None
        for place in tqdm(range(len(batches)), desc="embed images", unit="batch", delay=SILENT_SECONDS):
            batch = list(waiting)
            waiting = threads.map(read_or_reason, batches[place + 1]) if place + 1 < len(batches) else None
            yield batch


def read_or_reason(path: Path) -> tuple[str, Image.Image | str]:
    """The path and its image, or the reason why it has none."""
    try:
        return str(path), read_image(path)
    except UnreadableImage as error:
        return str(path), str(error)
