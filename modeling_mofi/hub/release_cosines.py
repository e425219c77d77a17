"""Compares a converted mofi-h14 with the cosines that the release's README prints for three photographs."""

from pathlib import Path

import torch
from PIL import Image

from ..modeling_mofi import MofiModel
from ..processing_mofi import MofiProcessor


# Photographs on Wikimedia Commons, by the word that stands for each.
PHOTOGRAPHS = {
    "poodle": "Pudel_Grossschwarz.jpg",
    "husky": "DOG-HUSKY_23JUL00.jpg",
    "cat": "Kittyply_edit1.jpg",
}
# Rows: the three photographs, then "a photo of a ..." of each; columns: the three photographs.
# Source: https://github.com/apple/ml-mofi (README.md).
COSINES = (
    (1.0, 0.2638, 0.0819),
    (0.2638, 1.0, 0.193),
    (0.0819, 0.193, 1.0),
    (0.2025, 0.0717, 0.0302),
    (0.0517, 0.2019, 0.0645),
    (0.0584, 0.0958, 0.1867),
)
TOLERANCE = 0.005  # JPEG decoders differ.


def find_photograph(folder: Path, word: str) -> Path:
    """The photograph under its own name, or any file named like the word."""
    found = [folder / PHOTOGRAPHS[word], *sorted(folder.glob(f"{word}.*"))]
    for path in found:
        if path.is_file():
            return path
    raise ValueError(f"{folder} has neither {PHOTOGRAPHS[word]} nor a file {word}.jpg; see Wikimedia Commons.")


@torch.no_grad()
def cosines(checkpoint: str | Path, image_folder: str | Path) -> torch.Tensor:
    """Cosines `[6, 3]` of photographs and texts with the photographs."""
    model = MofiModel.from_pretrained(checkpoint).eval()
    processor = MofiProcessor.from_pretrained(checkpoint)
    images = [Image.open(find_photograph(Path(image_folder), word)) for word in PHOTOGRAPHS]
    inputs = processor(images=images, text=[f"a photo of a {word}" for word in PHOTOGRAPHS], return_tensors="pt")
    outputs = model(**inputs)
    return torch.cat([outputs.image_embeds, outputs.text_embeds]) @ outputs.image_embeds.T


def verify(checkpoint: str | Path, image_folder: str | Path) -> tuple[bool, str]:
    """Whether every cosine is within the tolerance of the README's, and a table of both."""
    found, expected = cosines(checkpoint, image_folder), torch.tensor(COSINES)
    worst = (found - expected).abs().max().item()
    is_match = worst <= TOLERANCE
    names = [*PHOTOGRAPHS, *(f"a photo of a {word}" for word in PHOTOGRAPHS)]
    rows = [
        f"{name:>20}  " + "  ".join(f"{value:+.4f} ({target:+.4f})" for value, target in zip(*pair, strict=True))
        for name, *pair in zip(names, found.tolist(), COSINES, strict=True)
    ]
    verdict = "match" if is_match else "NO MATCH: activation, pooling or preprocessing differ from the release's"
    head = "cosines with poodle, husky and cat; the README's for mofi-h14 in brackets"
    return is_match, "\n".join([head, *rows, f"{verdict} (largest difference {worst:.4f}, tolerance {TOLERANCE})"])
