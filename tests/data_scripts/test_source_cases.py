"""Whole builds from sources in which much is wrong: what is wrong costs itself and is counted, the rest is published.

One build for each kind of source, as a build takes a second; the readers' own tests look closer.
"""

import base64
import gzip
import json
import os
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_build import colour, encode, error_of, write_tar

from data_scripts.build_i2e import main


def picture(number, kind="PNG", **options):
    return encode(Image.new("RGB", (24, 20), colour(number)), kind, **options)


def cut_gif():
    """An animation that ends in its second frame."""
    frames = [Image.effect_noise((24, 20), 90) for _ in range(2)]
    whole = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return whole[: len(whole) - 200]


def turned_jpeg():
    """A JPEG lying on its side, with a text in a tag that is a number."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = picture(1, "JPEG", exif=exif.tobytes() + b"\0" * 40)
    return content


def build(flags, tmp_path):
    """Ids and texts that are published, how many rows were dropped for what, and the examples by reason."""
    main(flags)
    dropped, examples = Counter(), {}
    for path in sorted((tmp_path / "i2e" / "stages").glob("*_entities/*.json")):
        manifest = json.loads(path.read_text())
        for counts in manifest.get("stages", {}).values():
            dropped.update(counts["dropped"])
        for reason, found in manifest.get("examples", {}).items():
            examples.setdefault(reason, []).extend(found)
    data = datasets.load_dataset(str(tmp_path / "i2e"), split="train", cache_dir=str(tmp_path / "cache"))
    return data, dict(dropped), examples


def test_bad_lines_and_paths_cost_themselves(recipe, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    files = {"good.png": picture(0), "cut.gif": cut_gif(), "turned.jpg": turned_jpeg()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    text = "an octopus"
    images = {"good": "good.png", "cut gif": "cut.gif", "turned": "turned.jpg", "letters": 300 * "x"}
    images |= {"loop": "loop.png", "pipe": "pipe.png", "outside": "/etc/hostname", "missing": "none.png"}
    images |= {
        "inline": base64.b64encode(bytes(90_000)).decode(),
        "data": "data:image/png;base64,AAAA",
        "no path": None,
    }
    rows = [{"image_id": name, "image": path, "alt_text": text, "tags": ["a", 1]} for name, path in images.items()]
    good = {"image": "good.png", "alt_text": text, "tags": None}
    rows += [{"image_id": "url", "image": "https://a.example/a.png", "alt_text": text}]
    rows += [
        good | {"image_id": "texts", "alt_text": [text, "more"]},
        good | {"image_id": "x", "alt_text": {"en": text}},
    ]
    lines = [json.dumps({"image": "good.png", "alt_text": text}), *map(json.dumps, rows), "[1]", "{", "[" * 100_000]
    lines += ['{"image_id": ' + "9" * 5000 + "}"]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(good | {"image_id": "gzip"}).encode()))
    csv = ["image_id,image,alt_text,tags", 'quoted,good.png,"an octopus, swimming",x', "comma,good.png,one, octopus,x"]
    (folder / "c.csv").write_text("\n".join(csv))
    tsv = ["image_id image alt_text tags", 'quote good.png "octopus x', "next good.png octopus x"]
    (folder / "d.tsv").write_text("\n".join(tsv).replace(" ", "\t"))
    data, dropped, examples = build(recipe(pairs=folder, keep_columns="tags"), tmp_path)
    kept = dict(zip(data["image_id"], data["tags"], strict=True))
    assert kept == dict.fromkeys(["good", "cut gif", "turned"], '["a", 1]') | {
        "000000-000000000": None,
        "texts": None,
        "gzip": None,
        "quoted": "x",
        "quote": "x",
        "next": "x",
    }
    assert dropped == {
        "image path too long": 2,
        "image path is a loop of links": 1,
        "image path is no file": 1,
        "image path outside the folder": 1,
        "image file missing": 1,
        "image is a data URI": 1,
        "image is a URL": 1,
        "no image": 1,
        "alt-text is no text": 1,
        "line is no JSON object": 1,
        "line is not JSON": 3,
        "wrong number of fields": 1,
    }
    assert examples["wrong number of fields"][0]["file"].endswith("c.csv")
    assert examples["wrong number of fields"][0]["error"].startswith("line 3: 5 fields, expected 4")
    assert examples["image file missing"][0]["error"].endswith("none.png")
    assert data[data["image_id"].index("turned")]["image"].size == (20, 24)


def samples(prefix, numbers=range(3)):
    return {
        f"{prefix}{number}.{extension}": content
        for number in numbers
        for extension, content in (("jpg", picture(number, "JPEG")), ("txt", b"an octopus"))
    }


def test_damaged_and_odd_tars_cost_what_is_lost(recipe, tmp_path, caplog):
    folder = tmp_path / "source"
    folder.mkdir()
    damaged = bytearray(write_tar(folder / "damaged.tar", samples("d")).read_bytes())
    start = damaged.index(b"d1.txt")
    damaged[start : start + 100] = b"\xff" * 100
    (folder / "damaged.tar").write_bytes(damaged)
    parts = [write_tar(tmp_path / "part", samples("j", numbers)).read_bytes() for numbers in (range(2), range(2, 4))]
    (folder / "joined.tar").write_bytes(b"".join(parts))
    mac = {f"{dots}{name}": content for name, content in samples("m").items() for dots in ("._", "")}
    write_tar(folder / "mac.tar", mac | {"m3.png": b"a mask", "m3.jpg": picture(3, "JPEG"), "m3.txt": b"an octopus"})
    content = write_tar(folder / "tail.tar", samples("t")).read_bytes()
    end = content.index(b"t2.jpg")
    (folder / "tail.tar").write_bytes(content[:end] + bytes(40_960))
    (folder / "cut.tar.gz").write_bytes(gzip.compress(write_tar(tmp_path / "part", samples("z")).read_bytes())[:-6])
    columns = {"image_column": "jpg", "alt_text_column": "txt", "image_id_column": "__key__"}
    data, dropped, examples = build(recipe(pairs=folder, keep_columns=None, **columns), tmp_path)
    names = ["d0", "d2", "j0", "j1", "j2", "j3", "m0", "m1", "m2", "m3", "t0", "t1", "z0", "z1", "z2"]
    assert sorted(data["image_id"]) == names
    assert dropped == {"damaged tar": 3, "no mention": 1}
    errors = {example["file"].rpartition("/")[2]: example["error"] for example in examples["damaged tar"]}
    assert errors["damaged.tar"].startswith(f"byte {start:,}: no header where one belongs (bad checksum)")
    assert errors["tail.tar"] == f"byte {end:,}: 40,960 bytes of zeros"
    assert "the compressed file is damaged or cut short" in errors["cut.tar.gz"]
    assert any("damaged tar: the first is row " in message and "byte " in message for message in caplog.messages)


def test_odd_parquet_columns_are_read(recipe, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    text, image = "an octopus", {"bytes": picture(0), "path": None}
    kinds = {
        "views": (pa.array([text] * 2).cast(pa.string_view()), pa.array([picture(0)] * 2).cast(pa.binary_view())),
        "dictionary": (pa.array([text] * 2).dictionary_encode(), pa.array([image] * 2)),
        "bytes": (pa.array([b"an octopus \xff"] * 2), pa.array([picture(0), b"\n<html>404</html>"])),
        "lists": (pa.array([[text, "x"], [text]]), pa.array([picture(0), None])),
    }
    kept = {"views": pa.nulls(2), "dictionary": pa.array([1, 2]), "bytes": pa.array([0.5, None]), "lists": pa.nulls(2)}
    for name, (texts, images) in kinds.items():
        ids = [f"{name} {row}" for row in range(2)]
        table = pa.table({"image_id": ids, "image": images, "alt_text": texts, "score": kept[name]})
        pq.write_table(table, folder / f"{name}.parquet")
    data, dropped, examples = build(recipe(pairs=folder, keep_columns="score"), tmp_path)
    found = dict(zip(data["image_id"], data["score"], strict=True))
    assert found == {
        "views 0": None,
        "views 1": None,
        "dictionary 0": 1.0,
        "dictionary 1": 2.0,
        "bytes 0": 0.5,
        "lists 0": None,
    }
    assert dropped == {"markup instead of an image": 1, "no image": 1}
    assert examples["markup instead of an image"][0] == {
        "file": str(folder / "bytes.parquet"),
        "row": 1,
        "id": "bytes 1",
        "error": "b'\\n<html>404</html>'",
    }


def damage_page(folder):
    """The second of two row groups is damaged; the first is whole."""
    table = pa.table({"image_id": ["a", "b"], "image": [picture(0)] * 2, "alt_text": ["an octopus"] * 2})
    path = folder / "a.parquet"
    pq.write_table(table, path, row_group_size=1, use_dictionary=False, compression="zstd")
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(2).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)


def cut_lines(folder):
    lines = "".join(json.dumps({"image_id": f"{row}", "image": "a.png", "alt_text": "x"}) + "\n" for row in range(99))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-20])


def keep_map(folder):
    exif = pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))
    table = pa.table({"image_id": ["a"], "image": [picture(0)], "alt_text": ["x"], "licence": exif})
    pq.write_table(table, folder / "a.parquet")


def keep_two_types(folder):
    for name, value in (("a", 1), ("b", "CC0")):
        table = pa.table({"image_id": ["a"], "image": [picture(0)], "alt_text": ["x"], "licence": [value]})
        pq.write_table(table, folder / f"{name}.parquet")


def name_urls(folder):
    table = pa.table({"image_id": ["a"], "image": ["https://a.example/b"], "alt_text": ["x"], "licence": [""]})
    pq.write_table(table, folder / "a.parquet")


REFUSED = [
    (damage_page, {"keep_columns": None}, r"a.parquet is damaged: row group 1 cannot be read"),
    (cut_lines, {}, r"a.jsonl.gz is damaged or cut short"),
    (keep_map, {}, r"a.parquet: column 'licence' is of type map<string, string"),
    (keep_two_types, {}, r"b.parquet: column 'licence' is of type string, and of type int64 in"),
    (name_urls, {}, r"a.parquet: column 'image' holds URLs ('https://a.example/b')"),
]


@pytest.mark.parametrize(("write", "settings", "message"), REFUSED, ids=[write.__name__ for write, _, _ in REFUSED])
def test_what_no_row_can_be_blamed_for_is_refused_with_the_file(write, settings, message, recipe, tmp_path, capsys):
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder)
    assert message in error_of(capsys, recipe(pairs=folder, **settings))
