"""Inputs for the tests of the data build: a knowledge base, pairs, and images that are hard to swallow."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_scripts.build_i2e import main
from data_scripts.sources.pairs import read_images
from modeling_mofi.data.images import UnreadableImage
from modeling_mofi.user_errors import run_command


ENTITIES = [
    ("Q1", "octopus", "sea animal with eight arms", [], 50),
    ("Q2", "turkey", "large bird of the farm, an animal", [], 40),
    ("Q3", "Turkey", "country of Asia and Europe", ["Republic of Turkey", "Türkiye"], 200),
    ("Q4", "apple", "round fruit of a tree", [], 60),
    ("Q5", "Apple Store", "shop of a computer company", ["Apple"], 20),
    ("Q6", "Coca-Cola", "drink of a company", ["Coke"], 90),
    ("Q7", "Maldives", "country of islands in Asia", ["The Maldives"], 150),
    ("Q8", "red panda", "small animal of Asia", [], 70),
    ("Q9", "cherry", "small red fruit of a tree", [], 30),
    ("Q10", "São Paulo", "city of Brazil", [], 100),
    ("Q11", "宁波地铁", "rapid transit of Ningbo", [], 10),
    ("Q12", "Free", "company that sells telephone lines", [], 15),
    ("Q13", "hot spring", "warm water from the ground", [], 25),
    ("Q14", "Next", "company that sells clothes", ["next"], 15),
]


def write_entities(path: Path, entities: list[tuple] = ENTITIES) -> Path:
    """Writes a JSONL knowledge base."""
    names = ("entity_id", "name", "description", "aliases", "num_sitelinks")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in entities), "utf-8")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Writes files with their contents as a tar."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_header(width=50_000, height=50_000):
    """A PNG that says it is huge, and is 60 bytes long."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data) - 4)
        + data
        + struct.pack(">I", zlib.crc32(data))
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
BAD_IMAGES = {
    "empty image": b"",
    "markup instead of an image": b"\n<!DOCTYPE html><html>404</html>",
    "truncated image": encode(NOISE, "JPEG")[:-900],
    "unknown image format": b"\x00\x01 no image at all",
    "image too small": encode(Image.new("RGB", (1, 1)), "PNG"),
    "extreme aspect ratio": encode(Image.new("RGB", (30_000, 1)), "PNG"),
    "too many pixels": bomb_header(),
    "corrupt image": encode(NOISE, "PNG")[:100] + bytes(50) + encode(NOISE, "PNG")[150:],
}


def read_cells(shard, *, source, rows):
    """As `read_images`, with the reason in the place of an image that cannot be read."""
    found = read_images(shard, source=source, rows=rows)
    return [(row, str(image) if isinstance(image, UnreadableImage) else image) for row, image in found]


def colour(row):
    """Another colour for every row."""
    return row * 7 % 256, row * 31 % 256, row * 57 % 256


def read_build(folder: Path) -> dict[str, bytes]:
    """Bytes of everything that is published, of the manifests and of the stages."""
    names = ("data/*", "entities.parquet", "README.md", "stages/*/*.json", "stages/*/*.parquet")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}


def error_of(capsys: pytest.CaptureFixture, flags: list[str]) -> str:
    """What the command says when it gives up."""
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: main(flags))
    return f"{stopped.value.code} {capsys.readouterr().err}"


TEXTS = ["1F419_octopus.svg", "Flag of Turkey", "a red panda in a tree", "two cherries", "apple, fruit", "DSC00220"]


def make_pairs(num_rows: int) -> list[dict[str, Any]]:
    """Rows that go round the texts, each with another image."""
    return [
        {
            "image_id": f"image-{row:03d}",
            "image": {"bytes": encode(Image.new("RGB", (24, 20), colour(row)), "PNG"), "path": None},
            "alt_text": TEXTS[row % len(TEXTS)],
            "licence": "CC0",
        }
        for row in range(num_rows)
    ]


def write_pairs(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes rows as Parquet."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({name: image if name == "image" else pa.string() for name in rows[0]})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=7)
    return str(path)
