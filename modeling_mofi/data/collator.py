"""Rows for training: found by position, drawn and augmented by position, so that a resumed run sees the same batches.

A position is `epoch * number of rows + row`. Everything random about a sample is a function of (seed, position): not
of the worker that loads it, nor of the number of processes at a fixed global batch.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..image_processing_mofi import MofiImageProcessor
from ..processing_mofi import MofiProcessor
from .augmentation import Augmentation, jitter_colors, random_view
from .entity_table import EntityTable
from .images import DEFAULT_BOUNDS, ImageBounds, UnreadableImage, read_image


logger = logging.getLogger(__name__)

TEXT_KINDS = ("alt_text", "name", "name_and_description")
WINDOW_ROWS = 4096  # Rows among which the order is random; a reader keeps their row groups in memory.
MAX_UNREADABLE_IN_A_ROW = 32


class PositionSampler(torch.utils.data.Sampler):
    """Yields the positions of an epoch in an order that depends on seed and epoch only.

    Groups of rows that are read together are shuffled, then the rows within each window of successive groups, so that
    a reader has one window of groups in use at a time. Where a window holds all rows, their order is entirely random.

    Args:
        group_sizes: Rows of each group, in the order of the dataset.
    """

    def __init__(self, group_sizes: Sequence[int], *, seed: int, window_rows: int = WINDOW_ROWS):
        self.group_sizes = np.asarray(group_sizes)
        self.num_rows = int(self.group_sizes.sum())
        self.seed, self.window_rows, self.epoch = seed, window_rows, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        first_rows = np.cumsum(self.group_sizes) - self.group_sizes
        window: list[np.ndarray] = []
        for group in generator.permutation(len(self.group_sizes)):
            window.append(np.arange(first_rows[group], first_rows[group] + self.group_sizes[group]))
            if sum(map(len, window)) >= self.window_rows:
                yield from self._positions(window, generator)
                window = []
        yield from self._positions(window, generator)

    def _positions(self, window: list[np.ndarray], generator: np.random.Generator) -> list[int]:
        rows = np.concatenate(window) if window else np.empty(0, dtype=np.int64)
        return (generator.permutation(rows) + self.epoch * self.num_rows).tolist()


class PositionDataset(torch.utils.data.Dataset):
    """Maps a position to its row, with the image decoded.

    An unreadable image is named in the log and replaced by the next readable row's; `num_unreadable` of the row that
    comes back counts them.

    Args:
        rows: `ParquetRows`, or any sequence of dicts whose `image` is undecoded: `{"bytes", "path"}`. A path is read
            only below one of the rows' `folders`.
        min_side: Pixels of the shorter side down to which larger images may be shrunk while they are decoded.
        keep_decoded: Keeps every image in memory after its first use, shrunk to `min_side`.
        bounds: What is decoded at all.
    """

    def __init__(self, rows: Any, *, min_side: int, keep_decoded: bool = False, bounds: ImageBounds = DEFAULT_BOUNDS):
        self.rows, self.min_side, self.bounds = rows, min_side, bounds
        self.decoded: dict[int, Image.Image] | None = {} if keep_decoded else None
        self.folders = getattr(rows, "folders", ())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Row `position % len(self)`, with `image` decoded, `position` and `num_unreadable`.

        Raises:
            ValueError: If many images in a row are unreadable.
        """
        for num_unreadable in range(MAX_UNREADABLE_IN_A_ROW):
            index = (position + num_unreadable) % len(self.rows)
            row = self.rows[index]
            try:
                image = self._image(index, row["image"])
            except UnreadableImage as error:
                logger.warning("image %s is left out: %s; the next one replaces it", row.get("image_id", index), error)
            else:
                return {**row, "image": image, "position": position, "num_unreadable": num_unreadable}
        raise ValueError(
            f"{MAX_UNREADABLE_IN_A_ROW} images in a row are unreadable, from row {position % len(self.rows)} on; "
            "check that the image column holds encoded images."
        )

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Rows at several positions; those from elsewhere are fetched together."""
        if hasattr(self.rows, "fetch"):
            self.rows.fetch([position % len(self.rows) for position in positions])
        return [self[position] for position in positions]

    def _image(self, index: int, encoded: Any) -> Image.Image:
        if self.decoded is None:
            return read_image(encoded, bounds=self.bounds, shrink_to=self.min_side, folders=self.folders)
        if index not in self.decoded:
            image = read_image(encoded, bounds=self.bounds, shrink_to=self.min_side, folders=self.folders)
            factor = min(1.0, self.min_side / min(image.size))
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            self.decoded[index] = image if factor == 1.0 else image.resize(size, Image.Resampling.BOX)
        return self.decoded[index]


class MofiDataCollator:
    """Turns rows into a batch: one view of each image, one of its entities, one text.

    Args:
        processor: Its image processor's normalization and its tokenizer.
        image_size: Height and width of the views.
        text_proportions: Share of `alt_text`, `name` and `name_and_description` among the texts; where a row lacks
            one, its share goes to the others. None leaves texts out (the supervised recipe).
        entities: `name` and `description` by entity_label, or None for data without entities.
        with_weights: Whether images get `entity_weights`: the `similarity` that the row's `entities` state.
        num_patches: Random numbers per image for patch dropout to choose by; 0 for none.
        normalizes: False leaves `pixel_values` as bytes, a quarter of what workers hand over, for
            `normalize_pixels` on the device; `MofiTrainer` does that.

    Example:

    ```python
    >>> collator = MofiDataCollator(processor, image_size=(48, 48), text_proportions={"alt_text": 1.0})
    >>> batch = collator([{"image": image, "alt_text": "Flag of Peru", "position": 0}])
    >>> batch["pixel_values"].shape, batch["input_ids"].shape
    (torch.Size([1, 3, 48, 48]), torch.Size([1, 5]))
    ```
    """

    def __init__(
        self,
        processor: MofiProcessor,
        *,
        image_size: tuple[int, int],
        text_proportions: dict[str, float] | None,
        entities: EntityTable | None = None,
        with_weights: bool = False,
        augmentation: Augmentation | None = None,
        num_patches: int = 0,
        normalizes: bool = True,
        seed: int = 0,
    ):
        self.processor, self.image_size, self.seed = processor, image_size, seed
        self.normalizes = normalizes
        self.text_proportions = check_text_proportions(text_proportions)
        self.entities, self.with_weights = entities, with_weights
        self.augmentation, self.num_patches = augmentation or Augmentation(), num_patches

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        generators = [np.random.default_rng([self.seed, row["position"]]) for row in rows]
        batch = {"pixel_values": self._pixel_values([row["image"] for row in rows], generators)}
        # No tensor: to read it from a GPU would mean to wait for the GPU.
        batch["num_unreadable"] = sum(row.get("num_unreadable", 0) for row in rows)
        places = [self._draw_place(row, generator) for row, generator in zip(rows, generators, strict=True)]
        labels = [row["entity_labels"][place] if place >= 0 else -1 for row, place in zip(rows, places, strict=True)]
        if self.entities is not None:
            batch["entity_labels"] = torch.tensor(labels)
            if self.with_weights:
                batch["entity_weights"] = torch.tensor(list(map(similarity_at, rows, places)))
        if self.text_proportions is not None:
            drawn = zip(rows, labels, generators, strict=True)
            texts = [self._draw_text(row, label, generator) for row, label, generator in drawn]
            batch |= self.processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        if self.num_patches:  # Drawn last, so that patch dropout changes nothing else.
            noise = np.stack([generator.random(self.num_patches, dtype=np.float32) for generator in generators])
            batch["patch_noise"] = torch.from_numpy(noise)
        return batch

    def _pixel_values(self, images: list[Image.Image], generators: list[np.random.Generator]) -> torch.Tensor:
        views = [
            random_view(image, self.augmentation, size=self.image_size, generator=generator)
            for image, generator in zip(images, generators, strict=True)
        ]
        pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
        pixels = (jitter_colors(pixels, self.augmentation, generators) * 255).round_().to(torch.uint8)
        return normalize_pixels(pixels, self.processor.image_processor) if self.normalizes else pixels

    def _draw_place(self, row: dict[str, Any], generator: np.random.Generator) -> int:
        labels = row.get("entity_labels")
        return int(generator.integers(len(labels))) if labels else -1

    def _draw_text(self, row: dict[str, Any], label: int, generator: np.random.Generator) -> str:
        texts = {"alt_text": row.get("alt_text")}
        if label >= 0 and self.entities is not None:
            entity = self.entities[label]
            texts["name"] = entity["name"]
            texts["name_and_description"] = self.processor.entity_text(entity["name"], entity["description"])
        kinds = [kind for kind, share in self.text_proportions.items() if share > 0 and texts.get(kind)]
        if not kinds:
            return next((text for text in texts.values() if text), "")
        shares = np.array([self.text_proportions[kind] for kind in kinds])
        return texts[kinds[generator.choice(len(kinds), p=shares / shares.sum())]]


def normalize_pixels(pixels: torch.Tensor, image_processor: MofiImageProcessor) -> torch.Tensor:
    """Turns uint8 images `[B, 3, H, W]`, on any device, into what the image processor makes of their pixels."""
    mean, std = image_processor.image_mean, image_processor.image_std
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (mean, std))
    return pixels.float().div_(255).sub_(mean).div_(std)


def similarity_at(row: dict[str, Any], place: int) -> float:
    """Similarity of a row's entity at a place, 0 if it is negative or there is no such entity (place -1).

    Raises:
        ValueError: If the dataset does not say it.
    """
    if place < 0:
        return 0.0
    similarity = row["entities"][place]["similarity"]
    if similarity is None:
        raise ValueError(
            f"image {row.get('image_id', row['position'])} has an entity without similarity; build the dataset with "
            "a filter, or set --entity_weighting none."
        )
    return max(0.0, similarity)


def check_text_proportions(proportions: dict[str, float] | None) -> dict[str, float] | None:
    """Refuses kinds of text that do not exist, negative shares, and shares that are all zero."""
    if proportions is None:
        return None
    unknown = set(proportions) - set(TEXT_KINDS)
    if unknown or any(share < 0 for share in proportions.values()) or not sum(proportions.values()):
        raise ValueError(
            f"text_proportions is {proportions}; it must give {', '.join(TEXT_KINDS)} shares of 0 or more, not all 0."
        )
    return {kind: float(share) for kind, share in proportions.items()}
