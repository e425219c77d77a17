"""Speed of the embedding loop (decode, prepare, embed, write the cache) relative to the bare forward pass.

    python -m benchmarks.evaluation_embedding --output benchmarks/results/evaluation_embedding.json

The model is a ViT with random weights, made in place; the images are noise of 500 x 375 pixels as JPEG. Loop and bare
forward alternate, and the medians are compared, so that what else the machine does weighs on both.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.evaluation_record import write_record
from evaluation.embed import embed
from evaluation.encoders import load_encoder
from evaluation.labeled_images import open_images
from modeling_mofi import MofiConfig, MofiImageProcessor, MofiModel


def main() -> None:
    """Measures both, `--repeats` times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(write_model(Path(folder, "model"), args.patch_size))
        images = open_images(write_images(Path(folder, "images.parquet"), args.images))
        prepared = torch.stack([encoder.prepare(images.read(row)[0]) for row in range(len(images))])
        encoder.embed_images(prepared[: args.batch_size])  # Warm.
        bare, loop = [], []
        for repeat in range(args.repeats):
            bare.append(seconds(lambda: [encoder.embed_images(batch) for batch in prepared.split(args.batch_size)]))
            cache = Path(folder, f"cache-{repeat}")
            loop.append(seconds(lambda: run_loop(encoder, images, args, cache)))  # noqa: B023
    measured = {key: value for key, value in vars(args).items() if key != "output"}
    measured |= {"device": str(encoder.device), "bare_seconds": bare, "loop_seconds": loop}
    measured["images_per_second"] = round(args.images / statistics.median(loop), 2)
    measured["share_of_bare_forward"] = round(statistics.median(bare) / statistics.median(loop), 3)
    print(json.dumps(measured))
    if args.output:
        write_record(args.output, measured)


def run_loop(encoder, images, args: argparse.Namespace, cache: Path) -> None:
    """Embeds everything into an empty cache."""
    embed(encoder, images, batch_size=args.batch_size, num_workers=args.workers, cache_dir=cache)


def seconds(run) -> float:
    """Wall time of a call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return round(time.perf_counter() - started, 3)


def write_model(folder: Path, patch_size: int) -> str:
    """A MOFI whose image tower is a ViT-B at 224 pixels."""
    vision, text = {"hidden_size": 768, "patch_size": patch_size}, {"num_hidden_layers": 1, "vocab_size": 100}
    MofiModel(MofiConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    MofiImageProcessor().save_pretrained(folder)
    return str(folder)


def write_images(path: Path, count: int) -> str:
    """JPEG files of noise that is smooth enough to compress as photographs do."""
    files = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 255, (47, 63, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        files.append({"bytes": content.getvalue(), "path": None})
    pq.write_table(pa.table({"image": files}), path)
    return str(path)


if __name__ == "__main__":
    main()
