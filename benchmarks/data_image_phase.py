"""The image phase of the data build beside the bare forward pass, and what decoding JPEGs at a fraction saves.

    python -m benchmarks.data_image_phase

The models are CLIPs with random weights, made in place; the images are noise as JPEG. All on one thread, but for the
part that decodes ahead. The phase as a build runs it (read, decode, prepare, embed, score, write, commit) and the bare
forward pass on prepared tensors take turns, and the medians are compared, so that what else the machine does weighs on
both. So do the phase in line and with decoding ahead of the model, under a model that takes about as long as decoding;
and decoding in full and at a fraction.
"""

import argparse
import dataclasses
import io
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import (
    build_sample_knowledge_base,
    encode_noise,
    plan_generated,
    write_clip,
    write_pairs,
)
from data_scripts.build_i2e import embed_candidates
from data_scripts.engine.engines import Engine, run_job, run_steps
from data_scripts.engine.jobs import single
from data_scripts.images.decode_images import decode_publishable
from data_scripts.images.filter_model import embed_images, prepare_image
from data_scripts.phases import link_job, score_groups, score_job
from modeling_mofi.data.images import read_image, shrunk_size


SIZES = ((500, 375), (1280, 960), (3000, 2250))
IMAGE_SIZE = 320
# Takes about as long as decoding and preparing an image, on one core.
SMALL_MODEL = {"hidden_size": 256, "num_layers": 4, "patch_size": 32}


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden_size", type=int, default=768)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--num_images", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_image_phase.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = {"model": f"ViT of width {args.hidden_size}, {args.num_layers} layers, patch 16, 224 pixels, fp32"}
    with tempfile.TemporaryDirectory() as name:
        measured |= measure_phase(Path(name), args)
        measured["ahead"] = measure_ahead(Path(name), repeats=args.repeats, num_images=8 * args.num_images)
        small = str(Path(name) / "small")
        measured["decode"] = [measure_decode(size, repeats=args.repeats, filter_model=small) for size in SIZES]
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def plan_scoring(folder: Path, filter_model: str, *, num_images: int, batch_size: int, threads: int) -> Callable:
    """Runs the text phase over 500 x 375 images; returns the image phase, which writes to another folder each time."""
    knowledge_base = build_sample_knowledge_base(folder)
    images = [encode_noise((500, 375), seed=seed) for seed in range(num_images)]
    pairs = write_pairs(folder / "pairs.parquet", knowledge_base, num_pairs=num_images, images=images)
    output = folder / f"{Path(filter_model).name}-{threads}"
    options = {"filter_model": filter_model, "batch_size": batch_size, "decode_threads": threads}
    build = plan_generated(pairs, output, knowledge_base, **options)
    run_job(link_job(build), single(build.shards), engine=Engine())
    run_steps(embed_candidates(build), engine=Engine())
    scoring, numbers = score_job(build), itertools.count()

    def run() -> None:
        target = output / f"turn-{next(numbers)}"
        run_job(dataclasses.replace(scoring, folder=target), score_groups(build), engine=Engine())
        shutil.rmtree(target)

    return run


def measure_phase(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Images per second of the bare forward and of the whole phase, at 500 x 375 pixels."""
    clip = write_clip(folder / "clip", hidden_size=args.hidden_size, num_layers=args.num_layers)
    phase = plan_scoring(folder, clip, num_images=args.num_images, batch_size=args.batch_size, threads=0)
    images = [Image.open(io.BytesIO(encode_noise((500, 375), seed=seed))) for seed in range(args.num_images)]
    prepared = [prepare_image(image, filter_model=clip) for image in images]

    def bare() -> None:
        for first in range(0, len(prepared), args.batch_size):
            embed_images(prepared[first : first + args.batch_size], filter_model=clip)

    seconds = alternate([bare, phase], repeats=args.repeats)
    speeds = [args.num_images / found for found in seconds]
    return {
        "bare_images_per_second": speeds[0],
        "phase_images_per_second": speeds[1],
        "phase_relative_to_bare": speeds[1] / speeds[0],
    }


def measure_ahead(folder: Path, *, repeats: int, num_images: int) -> dict[str, float]:
    """Images per second of the phase in line, and with one thread that decodes ahead of the model."""
    clip = write_clip(folder / "small", **SMALL_MODEL)
    options = {"num_images": num_images, "batch_size": num_images // 8}
    phases = [plan_scoring(folder, clip, threads=threads, **options) for threads in (0, 1)]
    speeds = [num_images / found for found in alternate(phases, repeats=repeats)]
    return {
        "in_line_images_per_second": speeds[0],
        "ahead_images_per_second": speeds[1],
        "gain": speeds[1] / speeds[0],
    }


def measure_decode(size: tuple[int, int], *, repeats: int, filter_model: str) -> dict[str, object]:
    """Images per second decoded in full and at a fraction, to the same size; and all that comes before the model."""
    data = encode_noise(size)

    def in_full() -> None:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = IMAGE_SIZE / min(image.size)
        image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)

    def scaled() -> None:
        image = read_image(data, shrink_to=IMAGE_SIZE)
        image.resize(shrunk_size(image.size, IMAGE_SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0)

    def prepared() -> None:
        prepare_image(decode_publishable(data, image_size=IMAGE_SIZE)[0], filter_model=filter_model)

    full, fraction, whole = alternate([in_full, scaled, prepared], repeats=9 * repeats)
    return {
        "size": list(size),
        "full_images_per_second": 1 / full,
        "scaled_images_per_second": 1 / fraction,
        "gain": full / fraction,
        "decoded_encoded_and_prepared_images_per_second": 1 / whole,
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
