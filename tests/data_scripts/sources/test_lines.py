import csv
import gzip
import io
import json
import tracemalloc

import pytest
from tiny_build import read_cells

from data_scripts.arguments import SourceArguments
from data_scripts.sources.pairs import read_pairs
from data_scripts.sources.plan import plan_shards


def read(path, **settings):
    """Texts, with the reason in the place of one that cannot be used; the same for shards of any size."""
    results = []
    for rows_per_shard in (1, 3, 10_000):
        source = SourceArguments(str(path), rows_per_shard=rows_per_shard, **settings)
        rows = []
        for shard in plan_shards(source):
            for batch in read_pairs(shard, source=source):
                rows += [
                    (reason, error) if reason else text
                    for text, reason, error in zip(
                        batch["alt_text"], batch["drop_reason"], batch["error"], strict=True
                    )
                ]
        results.append(rows)
    assert results[0] == results[1] == results[2]
    return results[0]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = b'{"image": "a.png", "alt_text": "an octopus"}'
BAD_LINES = [
    (b"no json", "line is not JSON", "Expecting value"),
    (b"[" * 100_000, "line is not JSON", "recursion"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "line is not JSON", "recursion"),
    (b'{"image": "a", "alt_text": ' + b"9" * 5000 + b"}", "line is not JSON", "limit"),
    (GOOD[:20], "line is not JSON", "line 2"),
    (b"[1, 2]", "line is no JSON object", "[1, 2]"),
    (b"null", "line is no JSON object", "null"),
    (b'{"image": "a", "alt_text": {"en": "x"}}', "alt-text is no text", ""),
    (b'{"image": "a", "alt_text": true}', "alt-text is no text", ""),
]


@pytest.mark.parametrize(("line", "reason", "error"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_json_line_costs_itself(line, reason, error, tmp_path):
    rows = read(write(tmp_path / "a.jsonl", b"\n".join([GOOD, line, b"", GOOD])))
    assert (rows[0], rows[2:]) == ("an octopus", ["an octopus"])
    assert rows[1][0] == reason
    assert error in (rows[1][1] or "")
    assert error == "" or "line 2" in rows[1][1]


def test_a_file_of_which_no_line_can_be_read_is_refused(tmp_path):
    pretty = json.dumps([{"image": "a", "alt_text": "b"}], indent=2)
    with pytest.raises(ValueError, match=r"a\.jsonl: none of the first lines can be read: line is not JSON, line 1"):
        read(write(tmp_path / "a.jsonl", pretty))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_a_line_without_end_is_passed_over_in_bounded_memory(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    with gzip.open(path, "wb", 1) if kind.endswith("gz") else path.open("wb") as file:
        file.write(GOOD + b'\n{"image": "')
        for _ in range(200):
            file.write(b"A" * 1_000_000)
        file.write(b'"}\n' + GOOD)
    tracemalloc.start()
    source = SourceArguments(str(path))
    batch = next(read_pairs(plan_shards(source)[0], source=source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch["drop_reason"] == [None, "line too long", None]
    assert "line 2 has over 16,000,000 bytes" in batch["error"][1]
    assert peak < 100_000_000


def test_a_key_that_the_first_lines_lack_refuses_nothing(tmp_path):
    lines = [
        json.dumps({"image": "a", "alt_text": "b"} | ({"licence": "CC0"} if row > 500 else {})) for row in range(900)
    ]
    source = SourceArguments(
        str(write(tmp_path / "a.jsonl", "\n".join(lines))), keep_columns=["licence"], rows_per_shard=100
    )
    kept = [
        value
        for shard in plan_shards(source)
        for batch in read_pairs(shard, source=source)
        for value in batch["licence"]
    ]
    assert kept == [None] * 501 + ["CC0"] * 399
    source.keep_columns = ["license"]
    with pytest.raises(ValueError, match="no column 'license'; it has image, alt_text, licence"):
        plan_shards(source)


def test_kept_values_that_are_no_text_are_json(tmp_path):
    values = [["a", None, True], {"w": 1}, 5, 0.5, False, "text", None, "lone \ud800", [{"ü": "\udc00"}]]
    lines = "\n".join(json.dumps({"image": "a", "alt_text": "b", "tags": value}) for value in values)
    source = SourceArguments(str(write(tmp_path / "a.jsonl", lines)), keep_columns=["tags"])
    batch = next(read_pairs(plan_shards(source)[0], source=source))
    expected = ['["a", null, true]', '{"w": 1}', "5", "0.5", "false", "text", None, "lone \ufffd", '[{"ü": "\ufffd"}]']
    assert batch["tags"] == expected


def test_of_several_texts_the_first_is_kept_and_that_is_noted(tmp_path):
    texts = [["first", "second"], ["only"], [], [None, "second"], [{"a": 1}], None, 5]
    lines = "\n".join(json.dumps({"image": "a", "alt_text": text}) for text in texts)
    source = SourceArguments(str(write(tmp_path / "a.jsonl", lines)))
    batch = next(read_pairs(plan_shards(source)[0], source=source))
    assert batch["alt_text"] == ["first", "only", "", "second", "", "", "5"]
    assert [row for row, note in enumerate(batch["note"]) if note] == [0, 3]


def test_no_text_is_longer_than_spacy_takes(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"image": "a", "alt_text": "x" * 1_200_000}))
    source = SourceArguments(str(path), max_text_length=5_000_000)
    batch = next(read_pairs(plan_shards(source)[0], source=source))
    assert (len(batch["alt_text"][0]), batch["note"]) == (1_000_000, ["text cut short"])


TSV_LINES = [
    '1.png\t"Tiger" in the grass, 12" print',
    '2.png\t"the fox',
    "3.png\ta, b",
    "4.png\t",
    '5.png\t"',
    "6.png\tend",
]
TSV_TEXTS = ['"Tiger" in the grass, 12" print', '"the fox', "a, b", "", '"', "end"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tsv_is_not_quoted(end, mark, tmp_path):
    path = write(tmp_path / "a.tsv", mark + end.join(["image\talt_text", *TSV_LINES]) + end)
    assert read(path) == TSV_TEXTS
    path = write(tmp_path / "b.tsv", mark + end.join(TSV_LINES))
    assert read(path, columns=["image", "alt_text"]) == TSV_TEXTS


def test_names_of_columns_where_the_lines_have_them_are_ignored_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", GOOD)
    assert read(path, columns=["alt_text", "image"]) == ["an octopus"]
    assert f"columns is ignored: {path} is neither CSV nor TSV" in caplog.messages


def test_a_file_without_a_header_line_is_told_from_one_that_lacks_a_column(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'image'; it has 1\.png"):
        read(write(tmp_path / "a.tsv", "\n".join(TSV_LINES)))


CSV_ROWS = [["1.png", "a, b"], ["2.png", 'say "cheese"'], ["3.png", "two\r\nlines\n\nand more"], ["4.png", ""]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("has_header", [True, False])
def test_csv_is_read_as_the_library_writes_it(end, encoding, has_header, tmp_path):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    writer.writerows([["image", "alt_text"]] * has_header + CSV_ROWS)
    path = write(tmp_path / "a.csv", file.getvalue().encode(encoding))
    assert read(path, columns=[] if has_header else ["image", "alt_text"]) == [text for _, text in CSV_ROWS]


BAD_CSV_LINES = [
    "2.png,in the zoo, a tiger",
    "2.png",
    '2.png,"the fox of the forest',
    '2.png,"a" tiger',
    '"2.png',
    '2.png,"a',
    '"',
]


@pytest.mark.parametrize("line", BAD_CSV_LINES)
@pytest.mark.parametrize("after", ["3.png,three", '3.png,"three"', '3.png,"th""ree, ""\n4.png,four"'])
def test_a_bad_csv_line_costs_itself(line, after, tmp_path):
    rows = read(write(tmp_path / "a.csv", f"image,alt_text\n1.png,one\n{line}\n{after}\n"))
    assert rows[0] == "one"
    assert rows[1][0] == "wrong number of fields"
    assert rows[1][1].startswith("line 3: ")
    assert rows[2:] == (['th"ree, "\n4.png,four'] if "four" in after else ["three"])


def test_quotes_inside_a_field_are_characters(tmp_path):
    rows = read(write(tmp_path / "a.csv", 'image,alt_text\n1.png,a 12" print\n2.png,two\n'))
    assert rows == ['a 12" print', "two"]


def test_a_header_line_in_the_middle_of_joined_files_is_no_row(tmp_path):
    part = "\ufeffimage,alt_text\n1.png,one\n"
    rows = read(write(tmp_path / "a.csv", part * 2))
    assert (rows[0], rows[1][0], rows[2]) == ("one", "header line again", "one")


@pytest.mark.parametrize("damage", ["cut", "checksum", "none"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_a_damaged_gzip_is_refused_with_its_name(damage, kind, tmp_path):
    content = gzip.compress((GOOD + b"\n") * 50)
    damaged = {"cut": content[:-9], "checksum": content[:-8] + b"\0\0\0\0" + content[-4:], "none": GOOD}
    path = write(tmp_path / f"a.{kind}.gz", damaged[damage])
    with pytest.raises(ValueError, match=rf"a\.{kind}\.gz is damaged or cut short"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_utf_16_is_refused(encoding, kind, tmp_path):
    text = "image\talt_text\n1.png\tx\n" if kind == "tsv" else GOOD.decode()
    with pytest.raises(ValueError, match="is UTF-16, UTF-32 or no text; save it as UTF-8"):
        read(write(tmp_path / f"a.{kind}", text.encode(encoding)))


def test_lines_that_end_as_on_old_macs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv ends its lines with a carriage return alone"):
        read(write(tmp_path / "a.csv", "image,alt_text\r1.png,x\r"))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_among_others_is_named(content, tmp_path, caplog):
    write(tmp_path / "a.jsonl", content)
    write(tmp_path / "b.jsonl", GOOD)
    assert read(tmp_path / "*.jsonl") == ["an octopus"]
    assert f"{tmp_path / 'a.jsonl'} has no rows" in caplog.messages


def test_only_the_lines_of_wanted_rows_are_parsed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", b"\n".join([GOOD] * 50))
    source = SourceArguments(str(path))
    shard = plan_shards(source)[0]
    parsed = []
    monkeypatch.setattr("data_scripts.sources.lines.DECODE", lambda text: parsed.append(text) or json.loads(text))
    assert read_cells(shard, source=source, rows=[3, 7]) == [
        (3, "image file missing"),
        (7, "image file missing"),
    ]
    assert len(parsed) == 2
