import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_build import read_cells

from data_scripts.arguments import SourceArguments
from data_scripts.engine.stages import convert_column
from data_scripts.sources.keep_columns import keep_column_types
from data_scripts.sources.pairs import read_images, read_pairs
from data_scripts.sources.plan import plan_shards


def write(path, *, num_rows=2, **columns):
    table = pa.table({"image": [b"x"] * num_rows, "alt_text": ["an octopus"] * num_rows} | columns)
    pq.write_table(table, path)
    return path


def read(path, **settings):
    """Columns of all rows; kept columns as the build writes them."""
    source = SourceArguments(str(path), **settings)
    shards = plan_shards(source)
    types = keep_column_types(shards, source.keep_columns)
    batches = [batch for shard in shards for batch in read_pairs(shard, source=source)]
    columns = {name: [value for batch in batches for value in batch[name]] for name in batches[0]}
    return columns | {name: convert_column(columns[name], kind).to_pylist() for name, kind in types.items()}


def bad_text(*values):
    """Text that is no UTF-8, as some writers store it."""
    return pa.array(values, pa.binary()).view(pa.string())


TEXTS = [None, "", "x" * 1_000_000, b"caf\xe9 \xff", "a\x00b", "שלום 🐙 \u202e", b"\xed\xa0\x80 surrogate", b"\x80"]
CLEAN = ["", "", "x" * 4096, "caf\ufffd \ufffd", "a\ufffdb", "שלום 🐙 \u202e"]
CLEAN += ["\ufffd\ufffd\ufffd surrogate", "\ufffd"]
# Each kind of text with the kind of bytes that is stored alike.
BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
    pa.binary(): pa.binary(),
    pa.binary_view(): pa.binary_view(),
}


@pytest.mark.parametrize("kind", BYTES, ids=str)
def test_hostile_texts_are_cleaned(kind, tmp_path):
    values = [text.encode() if isinstance(text, str) else text for text in TEXTS]
    column = pa.array(values, BYTES[kind]).view(kind)
    found = read(write(tmp_path / "a.parquet", num_rows=len(TEXTS), alt_text=column))
    assert found["alt_text"] == CLEAN
    assert [row for row, note in enumerate(found["note"]) if note] == [2]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.bool_(), pa.null(), pa.list_(pa.string())])
def test_a_text_column_of_another_type_ends_nothing(kind, tmp_path):
    values = {pa.int64(): [7, None], pa.float64(): [7.5, float("nan")], pa.bool_(): [True, None]}
    values |= {pa.null(): [None, None], pa.list_(pa.string()): [["first", "second"], []]}
    found = read(write(tmp_path / "a.parquet", alt_text=pa.array(values[kind], kind)))
    assert found["alt_text"] == {"int64": ["7", ""], "double": ["7.5", ""]}.get(
        str(kind), ["first", ""] if pa.types.is_list(kind) else ["", ""]
    )
    assert found["drop_reason"] == ["alt-text is no text" if kind == pa.bool_() else None, None]


def test_an_id_that_is_a_date_or_a_number_is_its_text(tmp_path):
    for number, (values, expected) in enumerate(
        [
            ([datetime.date(2020, 1, 1), None], "2020-01-01"),
            ([datetime.datetime(2020, 1, 1, 9), None], "2020-01-01 09:00:00"),
            ([decimal.Decimal("1.50"), None], "1.50"),
            ([12, None], "12"),
        ]
    ):
        path = write(tmp_path / f"{number}.parquet", id=pa.array(values))
        assert read(path, image_id_column="id")["image_id"] == [expected, "000000-000000001"]


def test_urls_in_a_dictionary_are_refused_too(tmp_path):
    urls = pa.array(["https://a.example/b.jpg"] * 2).dictionary_encode()
    with pytest.raises(ValueError, match="URLs are not fetched"):
        read(write(tmp_path / "a.parquet", image=urls))


def test_ids_kept_columns_and_paths_that_are_no_utf_8_have_replacement_characters(tmp_path):
    bad = bad_text(b"caf\xe9", b"tea")
    nested = pa.StructArray.from_arrays([bad, pa.array([b"\xff", b"\xfe"])], names=["text", "raw"])
    listed = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad)
    image = pa.StructArray.from_arrays([pa.array([None, b"y"], pa.binary()), bad], names=["bytes", "path"])
    path = write(tmp_path / "a.parquet", image=image, id=bad, kept=bad, nested=nested, listed=listed)
    found = read(path, image_id_column="id", keep_columns=["kept", "nested", "listed"])
    assert found["image_id"] == found["kept"] == ["caf\ufffd", "tea"]
    assert found["nested"] == [{"text": "caf\ufffd", "raw": b"\xff"}, {"text": "tea", "raw": b"\xfe"}]
    assert found["listed"] == [["caf\ufffd"], ["tea"]]
    source = SourceArguments(str(path))
    assert read_cells(plan_shards(source)[0], source=source, rows=[0, 1]) == [
        (0, "image file missing"),
        (1, b"y"),
    ]


@pytest.mark.parametrize("kind", [pa.binary_view(), pa.large_binary()])
def test_images_are_bytes_of_any_kind(kind, tmp_path):
    source = SourceArguments(str(write(tmp_path / "a.parquet", image=pa.array([b"a", b"b"], kind))))
    assert list(read_images(plan_shards(source)[0], source=source, rows=[1])) == [(1, b"b")]


def test_a_damaged_page_is_refused_with_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", num_rows=200, alt_text=[f"text {row}" for row in range(200)])
    place = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 60] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet is damaged: row group 0 cannot be read") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused_with_its_name(tmp_path):
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file .*interrupted"):
        read(path)


def test_a_column_that_stands_twice_is_refused_if_it_is_read(tmp_path):
    table = pa.table([[b"x"], ["a"], ["b"], ["c"], ["d"]], names=["image", "alt_text", "extra", "extra", "licence"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["alt_text"] == ["a"]
    with pytest.raises(ValueError, match=r"a\.parquet has 2 columns named 'extra'"):
        read(tmp_path / "a.parquet", keep_columns=["extra"])


JOINED = [
    (pa.array([None, None]), pa.array(["a", "b"]), [None, None, "a", "b"]),
    (pa.array([1, 2]), pa.array([0.5, None]), [1.0, 2.0, 0.5, None]),
    (pa.array([1, 2], pa.int8()), pa.array([3, 4]), [1, 2, 3, 4]),
    (pa.array([[1], None]), pa.array([[0.5], []]), [[1.0], None, [0.5], []]),
    (
        pa.array([{"a": 1}, None]),
        pa.array([{"b": "x"}] * 2),
        [{"a": 1, "b": None}, None, *[{"a": None, "b": "x"}] * 2],
    ),
    (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]), ["a", "b", "c", None]),
    (pa.array(["a", "b"], pa.string_view()), pa.array(["c", None]), ["a", "b", "c", None]),
    (pa.array([None, None]), pa.array([None, None]), [None] * 4),
]


@pytest.mark.parametrize(("first", "second", "expected"), JOINED, ids=range(len(JOINED)))
def test_kept_columns_have_the_type_that_holds_all_files(first, second, expected, tmp_path):
    write(tmp_path / "0.parquet", kept=first)
    write(tmp_path / "1.parquet", kept=second)
    assert read(tmp_path / "*.parquet", keep_columns=["kept"])["kept"] == expected


def test_integers_beyond_the_precision_of_floats_are_rounded_beside_floats():
    assert convert_column([2**60 + 1, None], pa.float64()).to_pylist() == [2.0**60, None]
    assert convert_column([[2**60 + 1], []], pa.list_(pa.float64())).to_pylist() == [[2.0**60], []]


DISAGREEING = [
    (pa.array([1, 2]), pa.array(["a", "b"])),
    (pa.array([0.5, 1]), pa.array(["a", "b"])),
    (pa.array([True, False]), pa.array([1, 2])),
    (pa.array(["a", "b"]), pa.array([b"a", b"b"])),
    (pa.array(["a", "b"]), pa.array([["a"], ["b"]])),
    (pa.array([decimal.Decimal("1.5")] * 2), pa.array([0.5, 1])),
    (pa.array([datetime.date(2020, 1, 1)] * 2), pa.array(["2020-01-01"] * 2)),
    (pa.array([-1, 1]), pa.array([2**64 - 1, 1], pa.uint64())),
]


@pytest.mark.parametrize(("first", "second"), DISAGREEING, ids=range(len(DISAGREEING)))
def test_kept_columns_that_disagree_are_refused_by_file_column_and_types(first, second, tmp_path):
    write(tmp_path / "0.parquet", kept=first)
    write(tmp_path / "1.parquet", kept=second)
    with pytest.raises(ValueError, match=r"1\.parquet: column 'kept' is of type .*, and of type .* in .*0\.parquet"):
        read(tmp_path / "*.parquet", keep_columns=["kept"])


@pytest.mark.parametrize("nested", [False, True])
def test_maps_are_refused_while_planning(nested, tmp_path):
    column = pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string()))
    column = pa.StructArray.from_arrays([column], names=["inner"]) if nested else column
    with pytest.raises(ValueError, match=r"a\.parquet: column 'exif' is of type .*map.*Take it out of --keep_columns"):
        read(write(tmp_path / "a.parquet", exif=column), keep_columns=["exif"])


def test_times_that_python_cannot_say_are_none(tmp_path):
    days = pa.array([4_000_000, 18_262], pa.int32()).view(pa.date32())
    found = read(write(tmp_path / "a.parquet", day=days), keep_columns=["day"])
    assert found["day"] == [None, datetime.date(2020, 1, 1)]


def test_an_empty_file_among_others_is_passed_over(tmp_path, caplog):
    write(tmp_path / "0.parquet", num_rows=0, image=pa.array([], pa.binary()), alt_text=pa.array([], pa.string()))
    write(tmp_path / "1.parquet")
    assert len(read(tmp_path / "*.parquet")["alt_text"]) == 2
    assert f"{tmp_path / '0.parquet'} has no rows" in caplog.messages
