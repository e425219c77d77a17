"""Embeds the images of a dataset once per model, in parts that an interrupt cannot spoil, and reads them back."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from evaluation.embedding_cache import is_whole
from evaluation.encoders import Encoder
from evaluation.labeled_images import LabeledImages
from modeling_mofi.data.images import UnreadableImage
from modeling_mofi.search.encoder import stack_inputs
from modeling_mofi.whole_files import write_text, write_whole


logger = logging.getLogger(__name__)

ROWS_PER_PART = 4096
SMALL = 2000  # Images for which starting worker processes takes longer than they save.


@dataclass
class Embedded:
    """Features of the readable images of a dataset.

    Attributes:
        image_embeds: Unit-length fp32 rows of shape (readable rows, D).
        features: The same rows before normalizing.
        rows: The row of the dataset that each embedding belongs to.
        image_hashes: Of each file, equal for equal bytes.
        unreadable: Why an image could not be read, by row id.
        num_duplicates: Readable images whose bytes occurred before.
    """

    image_embeds: torch.Tensor
    features: torch.Tensor
    rows: list[int]
    image_hashes: list[int]
    unreadable: dict[str, str]
    num_duplicates: int

    def only(self, places: Sequence[int]) -> "Embedded":
        """The embeddings at these places; the counts stay those of the dataset."""
        rows, hashes = ([column[place] for place in places] for column in (self.rows, self.image_hashes))
        embeds, features = self.image_embeds[places], self.features[places]
        return replace(self, image_embeds=embeds, features=features, rows=rows, image_hashes=hashes)


def embed(
    encoder: Encoder, images: LabeledImages, *, batch_size: int = 64, num_workers: int | None = None, cache_dir: Path
) -> Embedded:
    """Embeds all images, or reads from the cache what an earlier run embedded.

    Args:
        num_workers: Processes that decode and prepare images; by default none for a small set, else one per core.
        cache_dir: Holds one folder per model, revision, preprocessing and data fingerprint.

    Raises:
        ValueError: If no image can be read, or an embedding is not finite; the message names the rows.
    """
    key = {"encoder": encoder.key, "data": images.fingerprint, "image_column": images.image_column}
    folder = cache_dir / hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:32]
    parts = [range(start, min(start + ROWS_PER_PART, len(images))) for start in range(0, len(images), ROWS_PER_PART)]
    if missing := [part for part in parts if not is_whole(part_path(folder, part))]:
        write_text(folder / "key.json", json.dumps(key, indent=1, default=str))
        embed_parts(encoder, images, missing, folder=folder, batch_size=batch_size, num_workers=num_workers)
    return join_parts([part_path(folder, part) for part in parts], images)


def part_path(folder: Path, part: range) -> Path:
    """Where the rows of a part are kept."""
    return folder / f"rows-{part.start:09d}-{part.stop:09d}.safetensors"


def embed_parts(
    encoder: Encoder,
    images: LabeledImages,
    parts: list[range],
    *,
    folder: Path,
    batch_size: int,
    num_workers: int | None,
) -> None:
    """Runs the encoder over the rows of `parts` and commits each part when its last row is done."""
    batches = [list(part[start : start + batch_size]) for part in parts for start in range(0, len(part), batch_size)]
    num_rows = sum(map(len, parts))
    if num_workers is None:
        num_workers = 0 if num_rows < SMALL else min(8, len(os.sched_getaffinity(0)))
    loader = DataLoader(
        PreparedImages(encoder, images),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=encoder.device.type == "cuda",
    )
    stops, done = {part.stop: part for part in parts}, []
    title = f"{encoder.name} embeds {images.name}"
    with tqdm(total=num_rows, desc=title, unit="image", delay=5, mininterval=2) as progress:
        for rows, batch in zip(batches, loader, strict=True):
            features = encoder.embed_images(batch["inputs"]) if batch["rows"] else None
            done.append({**batch, "features": features, "inputs": None})
            progress.update(len(rows))
            if part := stops.get(rows[-1] + 1):  # A batch never crosses the end of a part.
                write_part(part_path(folder, part), done, [images.row_ids[row] for row in part])
                done = []


class PreparedImages(Dataset):
    """Decoded and prepared images by row; a row that cannot be read gives its reason instead."""

    def __init__(self, encoder: Encoder, images: LabeledImages):
        self.prepare, self.images = encoder.prepare, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            image, image_hash = self.images.read(row)
        except UnreadableImage as error:
            return {"row": row, "reason": str(error)}
        return {"row": row, "image_hash": image_hash, "inputs": self.prepare(image)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the readable images of a batch and keeps the reasons of the others by row."""
    readable = [item for item in items if "reason" not in item]
    return {
        "rows": [item["row"] for item in readable],
        "image_hashes": [item["image_hash"] for item in readable],
        "inputs": stack_inputs([item["inputs"] for item in readable]) if readable else None,
        "unreadable": {item["row"]: item["reason"] for item in items if "reason" in item},
    }


def write_part(path: Path, batches: list[dict[str, Any]], row_ids: list[str]) -> None:
    """Writes a part: features, rows, and the reasons why others have none."""
    features = [batch["features"] for batch in batches if batch["features"] is not None]
    tensors = {
        "features": torch.cat(features).cpu() if features else torch.empty(0, 0),
        "rows": torch.tensor([row for batch in batches for row in batch["rows"]], dtype=torch.int64),
        "image_hashes": torch.tensor([value for batch in batches for value in batch["image_hashes"]]).long(),
        "row_ids": text_tensor(row_ids),
        "unreadable": text_tensor({str(row): why for batch in batches for row, why in batch["unreadable"].items()}),
    }
    with write_whole(path) as temporary:
        save_file(tensors, temporary)


def text_tensor(value: Any) -> torch.Tensor:
    """JSON as a uint8 tensor: safetensors holds tensors only, and limits its header."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def join_parts(paths: list[Path], images: LabeledImages) -> Embedded:
    """Reads the parts of a dataset, checks that their rows are this dataset's, and normalizes."""
    parts = [load_file(path) for path in paths]
    row_ids = [row_id for part in parts for row_id in json.loads(bytes(part["row_ids"].numpy()))]
    if row_ids != images.row_ids:
        raise ValueError(f"The cached embeddings in {paths[0].parent} belong to other rows; delete this folder.")
    unreadable: dict[str, str] = {}
    for part in parts:
        reasons = json.loads(bytes(part["unreadable"].numpy()))
        unreadable |= {images.row_ids[int(row)]: reason for row, reason in reasons.items()}
    if len(unreadable) == len(images):
        raise ValueError(f"None of the {len(images)} images of {images.name} can be read: {first_reasons(unreadable)}")
    if unreadable:
        logger.warning("%s: %d images cannot be read: %s", images.name, len(unreadable), first_reasons(unreadable))
    features = torch.cat([part["features"] for part in parts if part["features"].numel()])
    rows = torch.cat([part["rows"] for part in parts]).tolist()
    check_finite(features, [images.row_ids[row] for row in rows], paths[0].parent)
    hashes = torch.cat([part["image_hashes"] for part in parts])
    return Embedded(
        image_embeds=torch.nn.functional.normalize(features, dim=1),
        features=features,
        rows=rows,
        image_hashes=hashes.tolist(),
        unreadable=unreadable,
        num_duplicates=len(hashes) - len(hashes.unique()),
    )


def first_reasons(unreadable: dict[str, str]) -> str:
    """The first few unreadable images with their reasons."""
    return "; ".join(f"{row_id} ({reason})" for row_id, reason in list(unreadable.items())[:5])


def check_finite(features: torch.Tensor, row_ids: list[str], folder: Path) -> None:
    """Raises a ValueError that names the rows with NaN or infinite features."""
    bad = [row_ids[row] for row in torch.where(~features.isfinite().all(dim=1))[0].tolist()]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(row_ids)} embeddings are NaN or infinite, first rows {', '.join(bad[:10])}. Try "
            f"--dtype float32; if the weights are at fault, train them again. The cache is in {folder}."
        )
