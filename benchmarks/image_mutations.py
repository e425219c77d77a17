"""Damaged images through the opener: each is read or refused with a reason, in bounded memory.

    python -m benchmarks.image_mutations

Whole images of each format, in several modes, with EXIF, profiles and further frames, are damaged: bytes and integers
are overwritten, in the header or anywhere; parts are cut off, cut out or repeated. Each format has a fresh process,
whose highest resident memory is read. Anything but pixels or an `UnreadableImage` ends the benchmark with an error.
"""

import argparse
import io
import json
import multiprocessing
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evaluation_record import write_record
from modeling_mofi.data.images import BYTES_PER_DEEP_PIXEL, DEFAULT_BOUNDS, FORMATS, UnreadableImage, decode_image


EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "LA", "I;16", "1"),
    "GIF": ("P", "L"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "F", "I;16", "CMYK", "1"),
    "BMP": ("RGB", "RGBA", "P", "L", "1"),
    "AVIF": ("RGB", "RGBA"),
}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": ({}, {"progressive": True}),
    "WEBP": ({}, {"lossless": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
}
WITH_METADATA = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
MANY_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_files", type=int, default=2000, help="damaged files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/image_mutations.json"))
    args = parser.parse_args()
    measured = {kind: measure(kind, num_files=args.num_files, seed=args.seed) for kind in FORMATS}
    # The largest image within the bounds, at the most that a pixel takes.
    bound = DEFAULT_BOUNDS.max_pixels * BYTES_PER_DEEP_PIXEL / 2**20
    write_record(args.output, {"files_of_each_format": args.num_files, "bound_megabytes": bound, "formats": measured})
    print(json.dumps(measured, indent=2))
    if failed := [kind for kind, found in measured.items() if found["errors"] or found["peak_megabytes"] > bound]:
        raise SystemExit(f"error: neither read nor refused, or above {bound:.0f} MB: {', '.join(failed)}")


def measure(kind: str, *, num_files: int, seed: int) -> dict[str, Any]:
    """What became of the damaged files of one format, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=open_damaged, args=(sender, kind, num_files, seed))
    worker.start()
    sender.close()  # A process that dies then ends the wait.
    try:
        return receiver.recv()
    except EOFError:
        worker.join()
        raise SystemExit(f"error: a damaged {kind} ended the process with exit status {worker.exitcode}") from None


def open_damaged(sender: Any, kind: str, num_files: int, seed: int) -> None:
    """Opens damaged files of one format and sends counts, seconds and the peak memory of this process."""
    wholes, generator = whole_images(kind), random.Random(f"{kind} {seed}")
    outcomes: Counter[str] = Counter()
    errors, slowest = [], 0.0
    before = peak_megabytes()
    for number in range(num_files):
        data = damage(wholes[number % len(wholes)], generator)
        started = time.perf_counter()
        try:
            outcomes["read" if decode_image(data).pixels.mode == "RGB" else "not RGB"] += 1
        except UnreadableImage as error:
            outcomes[str(error)] += 1
        except Exception as error:  # What this benchmark is to find.
            errors.append(f"file {number}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.perf_counter() - started)
    found = {"outcomes": dict(outcomes.most_common()), "errors": errors, "slowest_seconds": round(slowest, 2)}
    sender.send(found | {"megabytes_before": round(before), "peak_megabytes": round(peak_megabytes())})


def peak_megabytes() -> float:
    """The highest resident memory of this process so far; `ru_maxrss` would also count its parent's."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) / 1024


def whole_images(kind: str) -> list[bytes]:
    """Whole images of a format: of each mode and compression, with metadata, with several frames."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8))
    picture = noise.resize((90, 60), Image.Resampling.BICUBIC)
    images = [
        encode(as_mode(picture, mode), kind, **options) for mode in MODES[kind] for options in OPTIONS.get(kind, ({},))
    ]
    if kind in WITH_METADATA:
        exif = Image.Exif()
        exif.update({0x0112: 6, 0x010E: "a picture", 0x011A: 72.0})
        images.append(encode(picture, kind, exif=exif, icc_profile=bytes(range(128))))
    if kind in MANY_FRAMES:
        images.append(encode(picture, kind, save_all=True, append_images=[picture.rotate(90), picture.rotate(180)]))
    return images


def as_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture in a mode; half of it transparent where the mode can say so."""
    image = (picture.convert("L") if mode in ("LA", "F", "I;16") else picture).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An encoded image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def damage(data: bytes, generator: random.Random) -> bytes:
    """A damaged copy of a file."""
    damaged = bytearray(data)
    way = generator.randrange(6)
    start = generator.randrange(min(len(data), generator.choice((64, len(data)))))
    stop = min(len(data), start + generator.choice((1, 2, 4, 16, 64, 256)))
    if way == 0:
        for _ in range(generator.choice((1, 2, 8, 32))):
            damaged[generator.randrange(len(data))] = generator.randrange(256)
    elif way == 1:
        damaged[generator.randrange(min(64, len(data)))] = generator.randrange(256)
    elif way == 2:
        width, order = generator.choice((1, 2, 4)), generator.choice(("big", "little"))
        value = generator.choice(EXTREMES) % 256**width
        damaged[start : start + width] = value.to_bytes(width, order)
    elif way == 3:
        del damaged[max(1, start) :]
    elif way == 4:
        del damaged[start:stop]
    else:
        damaged[start:start] = data[start:stop]
    return bytes(damaged)


if __name__ == "__main__":
    main()
