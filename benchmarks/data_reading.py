"""Compares the readers of pairs of this checkout with those of another one, in turns on the same files.

    git worktree add ../before ebd6da9
    python benchmarks/data_reading.py --other ../before

Prints the best seconds of each and their ratio: below 1 this checkout is faster. Files are small and stay in the
page cache, so that what is measured is the reader and not the disk.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


NUM_ROWS = 20_000
IMAGE = bytes(range(256)) * 16
RUN = """
import json, sys, time
from data_scripts.arguments import SourceArguments
from data_scripts.sources.pairs import read_images, read_pairs
from data_scripts.sources.plan import plan_shards
source = SourceArguments(**json.loads(sys.argv[1]))
shards = plan_shards(source)
def texts():
    return sum(len(batch["row"]) for shard in shards for batch in read_pairs(shard, source=source))
def images():
    return sum(1 for s in shards for _ in read_images(s, source=source, rows=list(range(0, ROWS // len(shards), 2))))
for function in (texts, images):
    best = min((lambda start: (function(), time.perf_counter() - start)[1])(time.perf_counter()) for _ in range(3))
    print(best)
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, help="Folder of the other checkout.")
    parser.add_argument("--turns", type=int, default=3, help="How often each is measured.")
    options = parser.parse_args()
    trees = {"this": str(Path(__file__).parents[1]), "other": options.other}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in write_sources(Path(folder)).items():
            seconds: dict[str, list[list[float]]] = {tree: [] for tree in trees}
            for _ in range(options.turns):
                for tree, path in trees.items():
                    seconds[tree].append(measure(path, source))
            for place, phase in enumerate(("texts", "images")):
                best = {tree: min(turn[place] for turn in seconds[tree]) for tree in trees}
                ratio = best["this"] / best["other"]
                print(f"{name:8} {phase:6} this {best['this']:.3f} s, other {best['other']:.3f} s, ratio {ratio:.3f}")


def measure(tree: str, source: dict[str, object]) -> list[float]:
    """Seconds for the texts and the images of a source, read by the code of a checkout."""
    command = [sys.executable, "-c", RUN.replace("ROWS", str(NUM_ROWS)), json.dumps(source)]
    environment = os.environ | {"PYTHONPATH": tree}
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def write_sources(folder: Path) -> dict[str, dict[str, object]]:
    """The same pairs in three formats, with the settings to read them."""
    texts = [f"a photo of number {row}, in the garden behind the house" for row in range(NUM_ROWS)]
    (folder / "image.png").write_bytes(IMAGE)
    with (folder / "pairs.jsonl").open("w") as file:
        for row, text in enumerate(texts):
            file.write(json.dumps({"image_id": f"{row}", "image": "image.png", "alt_text": text}) + "\n")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for row, text in enumerate(texts):
            record = json.dumps({"url": f"u{row}", "licence": "CC0"}).encode()
            for extension, content in (("jpg", IMAGE), ("json", record), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{row:09d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    images = [{"bytes": IMAGE, "path": None}] * NUM_ROWS
    ids = [str(row) for row in range(NUM_ROWS)]
    pq.write_table(pa.table({"image_id": ids, "image": images, "alt_text": texts}), folder / "pairs.parquet")
    columns = {"image_id_column": "image_id"}
    tars = {"image_column": "jpg", "alt_text_column": "txt", "image_id_column": "__key__", "keep_columns": ["licence"]}
    return {
        "tar": {"pairs": str(folder / "pairs.tar")} | tars,
        "jsonl": {"pairs": str(folder / "pairs.jsonl")} | columns,
        "parquet": {"pairs": str(folder / "pairs.parquet")} | columns,
    }


if __name__ == "__main__":
    main()
