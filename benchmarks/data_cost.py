"""What building I2E from a billion pairs costs, computed from what the other benchmarks of the data build measured.

    python -m benchmarks.data_cost

Nothing is measured here. Core-hours follow from the recorded speeds on one core, as if every pair named an entity, so
that every image is scored: the most that it can cost. GPU-hours are no measurement of ours: they follow from the
models' published FLOPs under a stated utilization, and stand beside throughputs that others have published.
"""

import argparse
import json
from pathlib import Path


PAIRS = 1_000_000_000
HOUR = 3600.0
RESULTS = Path("benchmarks/results")
# FLOPs of the image tower at 224 pixels. Source: open_clip, docs/model_profile.csv (image_gflops).
IMAGE_FLOPS = {"ViT-B/16": 35.13e9, "ViT-L/14": 162.03e9}
# NVIDIA's figure for the A100 in bfloat16, dense; the utilization is our assumption.
PEAK_FLOPS, UTILIZATION = 312e12, 0.4
# Images per second of one A100, alone. Source: clip-retrieval, docs/distributed_clip_inference.md.
PUBLISHED_SPEED = {"ViT-B/16": 1100, "ViT-L/14": 312}
# LAION-5B: 5.86 billion pairs, ten machines of 16 virtual cores for a week, 220 TB at 384 pixels, 50 TB at 256 pixels.
# Source: img2dataset, dataset_examples/laion5B.md.
LAION = {"pairs": 5.86e9, "cores": 160, "hours": 168, "terabytes_384": 220, "terabytes_256": 50}
# DataComp: 12.8 billion pairs, 450 TB of images and texts, 75 TB of CLIP features. Source: its README.md.
DATACOMP = {"pairs": 12.8e9, "terabytes": 450, "terabytes_features": 75}


def main() -> None:
    """Computes and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "data_cost.md")
    args = parser.parse_args()
    rows = [*core_rows(), *gpu_rows(), *storage_rows(), *peer_rows()]
    lines = ["| per billion pairs | cost | from |", "|:--|--:|:--|", *(f"| {' | '.join(row)} |" for row in rows)]
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def read_result(name: str) -> dict:
    """A recorded result; empty if it is not there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def hours(items_per_second: float) -> str:
    """Hours that a billion items take, to two digits."""
    return f"{float(f'{PAIRS / items_per_second / HOUR:.2g}'):,.0f}"


def core_rows() -> list[tuple[str, str, str]]:
    """Core-hours of the two phases and of labeling."""
    rows = []
    if texts := read_result("data_processes").get("text_phase"):
        speed = texts["per_second_of_one_process"]
        source = f"{speed:,.0f} texts/s, data_processes.json"
        rows.append(("text phase, aliases alone, 27,906 entities", f"{hours(speed)} core-h", source))
    for key, text in (
        ("without_ner", "aliases alone, 2 million entities"),
        ("with_ner", "spaCy's recognizer and aliases"),
    ):
        if speed := read_result("data_text_phase").get(f"texts_per_second_{key}"):
            source = f"{speed:,.0f} texts/s, data_text_phase.json"
            rows.append((f"text phase, {text}", f"{hours(speed)} core-h", source))
    for decode in read_result("data_image_phase").get("decode", ()):
        speed = decode["decoded_encoded_and_prepared_images_per_second"]
        width, height = decode["size"]
        name = f"decode, shrink, encode, prepare {width} x {height}"
        rows.append((name, f"{hours(speed)} core-h", f"{speed:.0f} images/s, data_image_phase.json"))
    if labels := read_result("data_labels").get("one_process"):
        speed = labels["rows_per_second"]
        rows.append(
            ("count, draw, split and label", f"{hours(speed)} core-h", f"{speed:,.0f} rows/s, data_labels.json")
        )
    return rows


def gpu_rows() -> list[tuple[str, str, str]]:
    """GPU-hours of scoring: computed, and at published throughput."""
    rows = []
    for name, flops in IMAGE_FLOPS.items():
        computed = hours(PEAK_FLOPS * UTILIZATION / flops)
        source = f"{flops / 1e9:.0f} GFLOP an image, {UTILIZATION:.0%} of 312 TFLOP/s: computed, not measured"
        rows.append((f"{name} on A100s", f"{computed} GPU-h", source))
        speed = PUBLISHED_SPEED[name]
        rows.append((f"{name} on A100s", f"{hours(speed)} GPU-h", f"{speed:,} images/s, published by clip-retrieval"))
    return rows


def storage_rows() -> list[tuple[str, str, str]]:
    """Terabytes of what a build writes."""
    rows = []
    for size, peak in read_result("data_memory").get("text_phase", {}).get("by_pairs", {}).items():
        terabytes = peak["megabytes_of_text_phase"] / int(size) * PAIRS / 1e6
        rows = [("output of the text phase", f"{terabytes:.2f} TB", "data_memory.json")]
    low, high = (LAION[f"terabytes_{pixels}"] / LAION["pairs"] * PAIRS for pixels in (256, 384))
    text = "LAION-5B's bytes an image at 256 and 384 pixels; ours are shrunk to 320"
    return [*rows, ("images after the image phase", f"{low:.0f} to {high:.0f} TB", text)]


def peer_rows() -> list[tuple[str, str, str]]:
    """What others have published, brought to a billion pairs."""
    laion_hours = LAION["cores"] * LAION["hours"] / LAION["pairs"] * PAIRS
    laion_storage = LAION["terabytes_384"] / LAION["pairs"] * PAIRS
    storage, features = (DATACOMP[name] / DATACOMP["pairs"] * PAIRS for name in ("terabytes", "terabytes_features"))
    return [
        (
            "LAION-5B: download and resize to 384 pixels",
            f"{float(f'{laion_hours:.2g}'):,.0f} core-h, {laion_storage:.0f} TB",
            "img2dataset: 10 machines of 16 virtual cores, a week, 220 TB for 5.86 billion",
        ),
        (
            "DataComp: images and texts; CLIP features",
            f"{storage:.0f} TB; {features:.1f} TB",
            "DataComp's README: 450 TB and 75 TB for 12.8 billion",
        ),
    ]


if __name__ == "__main__":
    main()
