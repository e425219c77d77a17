"""The image phase of the data build beside the bare forward pass, and what decoding JPEGs at a fraction saves.

    python -m benchmarks.data_image_phase

The model is a CLIP with random weights, made in place; the images are noise as JPEG. The phase (decode, prepare,
embed, score) and the bare forward on prepared tensors alternate, and the medians are compared, so that what else the
machine does weighs on both; so do decoding in full and at a fraction.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from benchmarks.evaluation_record import write_record
from data_scripts import score_entities as stage
from data_scripts.decode_images import decode_images, decode_pixels, open_image
from data_scripts.embed_entities import FilterModel


SIZES = ((500, 375), (1280, 960), (3000, 2250))
IMAGE_SIZE = 256


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden_size", type=int, default=768)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--num_images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_image_phase.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure_phase(args) | {"decode": [measure_decode(size, repeats=args.repeats) for size in SIZES]}
    write_record(args.output, vars(args) | {"output": str(args.output)} | measured)
    print(json.dumps(measured, indent=2))


def encode_noise(size: tuple[int, int], *, seed: int = 0) -> bytes:
    """A JPEG with some structure: noise enlarged eight times, as photographs are smooth."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure_phase(args: argparse.Namespace) -> dict[str, float]:
    """Images per second of the bare forward and of the whole phase, at 500 x 375 pixels."""
    vision = {
        "hidden_size": args.hidden_size,
        "intermediate_size": 4 * args.hidden_size,
        "num_hidden_layers": args.num_layers,
        "num_attention_heads": args.hidden_size // 64,
        "patch_size": 16,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, projection_dim=512)).eval()
    prepare = CLIPImageProcessorPil()
    loaded = FilterModel(model, lambda images, **options: prepare(images, **options), torch.device("cpu"))
    texts = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    stage.open_filter_model = lambda name: loaded
    stage.open_text_embeddings = lambda folder: (texts, {f"Q{row}": row for row in range(len(texts))})
    files = [encode_noise((500, 375), seed=seed) for seed in range(args.num_images)]
    pixel_values = prepare([Image.open(io.BytesIO(data)) for data in files], return_tensors="pt")["pixel_values"]

    def bare() -> None:
        with torch.inference_mode():
            model.get_image_features(pixel_values=pixel_values)

    def phase() -> None:
        batch = decode_images({"image": list(files)}, image_size=IMAGE_SIZE)
        batch["candidates"] = [[{"entity_id": "Q0"}, {"entity_id": "Q1"}] for _ in files]
        stage.score_entities(batch, filter_model="", text_embeddings="")

    seconds = alternate([bare, phase], repeats=args.repeats)
    speeds = [args.num_images / found for found in seconds]
    return {"bare_images_per_second": speeds[0], "phase_images_per_second": speeds[1], "ratio": speeds[1] / speeds[0]}


def measure_decode(size: tuple[int, int], *, repeats: int) -> dict[str, object]:
    """Images per second with and without decoding at a fraction of the size; both end at the same size."""
    data = encode_noise(size)

    def in_full() -> None:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = IMAGE_SIZE / min(image.size)
        image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)

    def scaled() -> None:
        decode_pixels(open_image(data), image_size=IMAGE_SIZE)

    seconds = alternate([in_full, scaled], repeats=3 * repeats)
    return {
        "size": list(size),
        "full_images_per_second": 1 / seconds[0],
        "scaled_images_per_second": 1 / seconds[1],
        "gain": seconds[0] / seconds[1],
    }


def alternate(functions: list[Callable[[], None]], *, repeats: int) -> list[float]:
    """Median seconds of functions that take turns; a first turn warms up."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, times in zip(functions, seconds, strict=True):
            started = time.perf_counter()
            function()
            if turn:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    main()
