import csv
import json
from dataclasses import replace
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_build import read_cells, write_tar

from data_scripts.arguments import SourceArguments
from data_scripts.sources.images import encoded_bytes
from data_scripts.sources.limit import limit_shards
from data_scripts.sources.pairs import read_images, read_pairs
from data_scripts.sources.plan import plan_shards
from modeling_mofi.data.images import ImageBounds


PLAIN = SourceArguments("")
SOURCE = SourceArguments("", image_id_column="image_id", keep_columns=["licence"])


@pytest.fixture
def folder(tmp_path):
    """Ten images as files, `img/0.png` and so on."""
    (tmp_path / "img").mkdir()
    for row in range(10):
        (tmp_path / "img" / f"{row}.png").write_bytes(image(row))
    return tmp_path


def image(row):
    return f"image {row}".encode()


def text(row):
    return f"text {row}, ünï"


def records():
    for row in range(10):
        yield {"image_id": f"id-{row}", "image": f"img/{row}.png", "alt_text": text(row), "licence": "CC0"}


def write_jsonl(folder):
    lines = [json.dumps(record) for record in records()]
    (folder / "pairs.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    return folder / "pairs.jsonl"


def write_csv(folder):
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["image_id", "image", "alt_text", "licence"])
        writer.writeheader()
        writer.writerows(records())
    return folder / "pairs.csv"


def write_parquet_of_paths(folder):
    columns = {name: [record[name] for record in records()] for name in next(records())}
    datasets.Dataset.from_dict(columns).to_parquet(folder / "paths.parquet")
    return folder / "paths.parquet"


def write_parquet_of_bytes(folder):
    rows = [record | {"image": {"bytes": image(row), "path": None}} for row, record in enumerate(records())]
    datasets.Dataset.from_list(rows).to_parquet(folder / "bytes.parquet", batch_size=3)
    return folder / "bytes.parquet"


def write_webdataset(folder):
    members = {}
    for row, record in enumerate(records()):
        sample = {"jpg": image(row), "txt": text(row).encode(), "json": json.dumps(record).encode()}
        members |= {f"{row:09d}.{extension}": content for extension, content in sample.items()}
    return write_tar(folder / "00000.tar", members)


SOURCES = [write_jsonl, write_csv, write_parquet_of_paths, write_parquet_of_bytes, write_webdataset]


def plan(source, *, rows_per_shard=4):
    return plan_shards(SourceArguments(str(source), rows_per_shard=rows_per_shard))


def read_all(shards, source=SOURCE):
    return [
        dict(zip(batch, values, strict=True))
        for shard in shards
        for batch in read_pairs(shard, source=source, batch_size=3)
        for values in zip(*batch.values(), strict=True)
    ]


@pytest.mark.parametrize("write", SOURCES)
def test_every_format_gives_the_same_texts(write, folder):
    rows = read_all(plan(write(folder)))
    assert [row["image_id"] for row in rows] == [f"id-{row}" for row in range(10)]
    assert [row["alt_text"] for row in rows] == [text(row) for row in range(10)]
    assert {row["licence"] for row in rows} == {"CC0"}


@pytest.mark.parametrize("write", SOURCES)
def test_every_format_gives_the_images_of_the_rows_asked_for(write, folder):
    shards = plan(write(folder))
    wanted = [0, 2, 3] if len(shards) > 1 else [0, 2, 3, 9]
    found = list(read_images(shards[0], source=SOURCE, rows=wanted))
    assert found == [(row, image(row)) for row in wanted]


@pytest.mark.parametrize("write", SOURCES[:4])
def test_shards_have_the_rows_that_were_asked_for(write, folder):
    assert [len(read_all([shard])) for shard in plan(write(folder))] == [4, 4, 2]


@pytest.mark.parametrize("write", SOURCES)
@pytest.mark.parametrize("limit", [1, 4, 7, 10, 99])
def test_a_limit_takes_the_first_rows(limit, write, folder):
    source = replace(SOURCE, limit=limit)
    shards = limit_shards(plan(write(folder)), source)
    assert [row["image_id"] for row in read_all(shards)] == [f"id-{row}" for row in range(min(limit, 10))]
    assert len(shards) == (1 if write is write_webdataset else -(-min(limit, 10) // 4))


def test_an_image_folder_with_metadata_is_a_source(folder):
    rows = [json.dumps({"file_name": f"{row}.png", "text": text(row)}) for row in range(10)]
    (folder / "img" / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    source = SourceArguments(str(folder / "img"), image_column="file_name", alt_text_column="text")
    shards = plan_shards(source)
    assert [row["alt_text"] for row in read_all(shards, source)] == [text(row) for row in range(10)]
    assert list(read_images(shards[0], source=source, rows=[7])) == [(7, image(7))]
    assert read_all(shards, source)[3]["image_id"] == "000000-000000003"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_that_datasets_opens_is_a_source(streaming, folder, monkeypatch):
    write_parquet_of_bytes(folder)
    data = datasets.load_dataset(
        "parquet", data_files=str(folder / "bytes.parquet"), split="train", streaming=streaming
    )
    monkeypatch.setattr("data_scripts.sources.hub.datasets.load_dataset", lambda *args, **kwargs: data)
    revision = f"test {streaming}"
    shards = plan_shards(
        SourceArguments("someone/pairs", rows_per_shard=4, streaming=streaming, hub_revision=revision)
    )
    assert [row["alt_text"] for row in read_all(shards)] == [text(row) for row in range(10)]
    assert dict(read_images(shards[0], source=SOURCE, rows=[1, 3])) == {1: image(1), 3: image(3)}


def test_a_pattern_reads_its_files_in_order(folder):
    for name in ("b", "a"):
        write_jsonl(folder).rename(folder / f"{name}.jsonl")
    shards = plan(folder / "*.jsonl", rows_per_shard=100)
    assert [shard.path.rpartition("/")[2] for shard in shards] == ["a.jsonl", "b.jsonl"]


def test_csv_fields_may_hold_line_breaks(folder):
    (folder / "pairs.csv").write_text('image_id,image,alt_text,licence\n1,a,"two\nlines",x\n2,b,one,y\n3,c,"",z\n')
    rows = read_all(plan(folder / "pairs.csv", rows_per_shard=1))
    assert [row["alt_text"] for row in rows] == ["two\nlines", "one", ""]


HOSTILE_TEXTS = [
    (None, ""),
    ("", ""),
    ("a\x00b", "a\ufffdb"),
    ("lone \ud800 surrogate", "lone \ufffd surrogate"),
    ("שלום 🐙", "שלום 🐙"),
    (5, "5"),
    (["first", "second"], "first"),
    ("x" * 1_000_000, "x" * 50),
]


@pytest.mark.parametrize(("value", "expected"), HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_texts_are_cleaned_one_character_for_one(value, expected, folder):
    (folder / "pairs.jsonl").write_text(json.dumps({"image": "x", "alt_text": value}))
    source = SourceArguments("", max_text_length=50)
    assert [row["alt_text"] for row in read_all(plan(folder / "pairs.jsonl"), source)] == [expected]


def test_invalid_utf8_becomes_replacement_characters(folder):
    (folder / "pairs.jsonl").write_bytes(b'{"image": "x", "alt_text": "caf\xe9"}\n')
    assert read_all(plan(folder / "pairs.jsonl"), PLAIN)[0]["alt_text"] == "caf\ufffd"


def test_a_text_cut_short_is_noted(folder):
    shards = plan(write_jsonl(folder))
    batch = next(read_pairs(shards[0], source=SourceArguments("", max_text_length=3)))
    assert batch["note"] == ["text cut short"] * 4


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("img/none.png", "image file missing"),
        ("../secret.png", "image path outside the folder"),
        (None, "no image"),
        ("", "no image"),
        ({"bytes": None, "path": None}, "no image"),
        (3, "image column holds a int"),
        ("img", "image file missing"),
        ("a\0b", "image file missing"),
    ],
)
def test_an_image_that_is_not_there_comes_as_a_reason(value, reason, folder):
    (folder / "pairs.jsonl").write_text(json.dumps({"image": value, "alt_text": "x"}))
    (folder.parent / "secret.png").write_bytes(b"secret")
    shards = plan(folder / "pairs.jsonl")
    assert read_cells(shards[0], source=PLAIN, rows=[0]) == [(0, reason)]


URLS = ["http://127.0.0.1/x.png", "HTTPS://a.example/x.jpg", "file:///etc/hostname", "s3://bucket/x.png", "ftp://a/b"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_images_that_are_urls_are_refused_before_any_work(url, kind, folder):
    path = folder / f"urls.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps({"image": url, "alt_text": "x"}))
    elif kind == "csv":
        path.write_text(f"image,alt_text\n{url},x\n")
    else:
        pq.write_table(pa.table({"image": [url], "alt_text": ["x"]}), path)
    with pytest.raises(ValueError, match="URLs are not fetched.*img2dataset"):
        plan(path)


@pytest.mark.parametrize("url", [*URLS, " http://a.example/x.png"])
def test_a_url_among_paths_costs_its_row_and_is_not_fetched(url, folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *address: pytest.fail("a connection was opened"))
    lines = [json.dumps({"image": image, "alt_text": "x"}) for image in ("img/0.png", url, "img/1.png")]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    shards = plan(folder / "pairs.jsonl")
    found = read_cells(shards[0], source=PLAIN, rows=[0, 1, 2])
    assert found == [(0, image(0)), (1, "image is a URL"), (2, image(1))]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet_of_bytes])
def test_large_images_are_not_taken(write, folder, monkeypatch):
    strict = partial(encoded_bytes, bounds=ImageBounds(max_bytes=3))
    monkeypatch.setattr("data_scripts.sources.images.encoded_bytes", strict)
    shards = plan(write(folder))
    assert read_cells(shards[0], source=PLAIN, rows=[0]) == [(0, "image file too large")]


@pytest.mark.parametrize("write", SOURCES)
def test_a_missing_column_is_named_with_those_there_are(write, folder):
    with pytest.raises(ValueError, match="no column 'caption'.*alt_text"):
        plan_shards(SourceArguments(str(write(folder)), alt_text_column="caption"))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("missing.parquet", None, FileNotFoundError, "does not exist"),
        ("none-*.parquet", None, FileNotFoundError, "no file matches"),
        ("a.xlsx", b"", ValueError, "expected files of one kind"),
        ("a.jsonl", b"", ValueError, "has no rows"),
        ("a.parquet", b"PAR1 no", ValueError, "not a Parquet file"),
        (".", None, FileNotFoundError, "has no .parquet"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(name, content, error, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        plan(tmp_path / name)


def test_a_cut_tar_is_refused_with_its_name(folder):
    path = write_webdataset(folder)
    path.write_bytes(path.read_bytes()[:-11_000])
    with pytest.raises(ValueError, match=r"00000\.tar is not a whole tar"):
        read_all(plan(path))


def test_gold_and_other_columns_never_leave_the_disk(folder, monkeypatch):
    asked = []
    original = pq.ParquetFile.iter_batches

    def spy(self, *args, **kwargs):
        asked.extend(kwargs["columns"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    shards = plan(write_parquet_of_bytes(folder))
    read_all(shards)
    list(read_images(shards[0], source=SOURCE, rows=[0]))
    assert set(asked) == {"image_id", "alt_text", "licence", "image"}
