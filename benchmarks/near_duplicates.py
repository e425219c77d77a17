"""What the perceptual hash of `evaluation/near_duplicates.py` finds and mistakes, by the distance that is allowed.

    python -m benchmarks.near_duplicates sample_data/pairs/train.parquet

Found: the share of altered copies within the distance of their original, one line per alteration. Mistaken: the share
of images within the distance of another image of the set (of files with the same bytes one is looked at). Beside it
the difference hash (dHash), of 64 bits. Writes benchmarks/results/near_duplicates.md.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.evaluation_record import hardware
from evaluation.labeled_images import open_images
from evaluation.near_duplicates import is_near, perceptual_hash


DISTANCES = (0, 2, 4, 6, 8, 10, 12)
Hash = Callable[[Image.Image], int | None]


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(io.BytesIO(content.getvalue()))


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The image without a share of its width and height, half of it at each side."""
    left, top = (round(side * share / 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 40": lambda image: compressed(image, 40),
    "half the size": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    "stretched by a tenth": lambda image: image.resize((round(image.width * 1.1), image.height)),
    "brighter by a fifth": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "without 4% of each side": lambda image: cropped(image, 0.04),
    "without 10% of each side": lambda image: cropped(image, 0.10),
    "with a border of 3%": lambda image: ImageOps.expand(image, round(0.03 * image.width), "white"),
    "mirrored": ImageOps.mirror,
}


def main() -> None:
    """Measures both hashes and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="Images, as evaluate_mofi.py takes them.")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/near_duplicates.md"))
    args = parser.parse_args()
    images = read_images(args.data, limit=args.limit)
    tables = [table(name, hashed, images) for name, hashed in (("pHash", perceptual_hash), ("dHash", difference_hash))]
    lines = [
        f"# Near-duplicates among {len(images):,} images of {args.data}",
        "",
        *tables,
        f"- hardware: {hardware()}",
        "",
    ]
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def read_images(data: str, *, limit: int) -> list[Image.Image]:
    """Different files of the set."""
    images = open_images(data, limit=limit)
    return list({image_hash: image for image, image_hash in map(images.read, range(len(images)))}.values())


def difference_hash(image: Image.Image) -> int | None:
    """Whether each of 8 x 8 cells is brighter than the next."""
    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int("".join("01"[value] for value in (gray[:, 1:] > gray[:, :-1]).flatten().astype(int)), 2)


def table(name: str, hashed: Hash, images: list[Image.Image]) -> str:
    """Shares found and mistaken by allowed distance."""
    originals = np.array([hashed(image) or 0 for image in images], dtype=np.uint64)
    lines = [
        f"| {name} | {' | '.join(f'≤ {distance}' for distance in DISTANCES)} |",
        f"|:--|{'--:|' * len(DISTANCES)}",
    ]
    for alteration, alter in ALTERATIONS.items():
        copies = np.array([hashed(alter(image)) or 0 for image in images], dtype=np.uint64)
        lines.append(line(alteration, [(np.bitwise_count(copies ^ originals) <= d).mean() for d in DISTANCES]))
    mistaken = [
        np.mean(
            [is_near(originals[i : i + 1], np.delete(originals, i), max_distance=d)[0] for i in range(len(images))]
        )
        for d in DISTANCES
    ]
    return "\n".join([*lines, line("mistaken for another image", mistaken), ""])


def line(name: str, shares: list[float]) -> str:
    """A row of percentages."""
    return f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |"


if __name__ == "__main__":
    main()
