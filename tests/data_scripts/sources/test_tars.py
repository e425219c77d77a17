import bz2
import gzip
import io
import json
import lzma
import random
import re
import tarfile
import tracemalloc

import pytest
from tiny_build import read_cells, write_tar

from data_scripts.arguments import SourceArguments
from data_scripts.sources.pairs import read_pairs
from data_scripts.sources.plan import plan_shards


SETTINGS = {"image_column": "jpg", "alt_text_column": "txt", "image_id_column": "__key__"}
WHOLE = [f"text {number}" for number in range(6)]


def members(numbers=range(6), *, prefix=""):
    """An image of 700 bytes and a text for each number: headers at 0, 1536, 2560, 4096 ..."""
    return {
        f"{prefix}{number}.{extension}": content
        for number in numbers
        for extension, content in (("jpg", bytes([number + 1]) * 700), ("txt", f"text {number}".encode()))
    }


def read(path, **settings):
    """Texts of the rows that can be used, and errors of those that cannot."""
    source = SourceArguments(str(path), **SETTINGS | settings)
    texts, errors = [], []
    for shard in plan_shards(source):
        for batch in read_pairs(shard, source=source):
            for text, reason, error in zip(batch["alt_text"], batch["drop_reason"], batch["error"], strict=True):
                texts += [] if reason else [text]
                errors += [f"{reason}: {error}"] if reason else []
    return texts, errors


def images(path, rows, **settings):
    source = SourceArguments(str(path), **SETTINGS | settings)
    return [image for shard in plan_shards(source) for _, image in read_cells(shard, source=source, rows=rows)]


def test_a_damaged_header_costs_its_member_and_is_counted_with_its_place(tmp_path):
    path = write_tar(tmp_path / "a.tar", members())
    content = bytearray(path.read_bytes())
    content[5120:5300] = b"\xff" * 180
    path.write_bytes(content)
    texts, errors = read(path)
    assert texts == WHOLE
    assert errors == [
        "damaged tar: byte 5,120: no header where one belongs (bad checksum); nothing is read up to byte 6,656"
    ]
    assert images(path, [1, 3, 4]) == [bytes([2]) * 700, "no image", bytes([4]) * 700]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_joined_tars_are_read_whole(kind, tmp_path):
    parts = [write_tar(tmp_path / "part", members(range(start, start + 3))).read_bytes() for start in (0, 3)]
    path = tmp_path / f"joined.{kind}"
    path.write_bytes(b"".join(parts) if kind == "tar" else b"".join(map(gzip.compress, parts)))
    assert read(path) == (WHOLE, [])
    assert images(path, [4]) == [bytes([5]) * 700]


@pytest.mark.parametrize("start", [3000, 5120, 7168])
def test_a_tail_of_zeros_is_counted(start, tmp_path):
    path = write_tar(tmp_path / "a.tar", members())
    path.write_bytes(path.read_bytes()[:start] + bytes(40_960))
    texts, errors = read(path)
    assert texts[:-1] == WHOLE[: len(texts) - 1]
    assert len(errors) == 1
    assert "bytes of zeros" in errors[0]


def test_zeros_in_the_middle_are_counted_and_what_follows_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", members() | members(range(6, 40), prefix="b"))
    content = bytearray(path.read_bytes())
    content[5120 : 5120 + 2560 * 9] = bytes(2560 * 9)
    path.write_bytes(content)
    texts, errors = read(path)
    assert texts == [*WHOLE[:2], *[f"text {number}" for number in range(11, 40)]]
    assert errors == ["damaged tar: byte 5,120: 23,040 bytes of zeros"]


def test_a_tar_without_its_end_is_refused_while_planning(tmp_path):
    path = write_tar(tmp_path / "a.tar", members())
    for size in (0, 700, 2000, 15_360 - 100):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"a\.tar is not a whole tar file .*download it again"):
            read(path)


def damage_gzip(content, damage):
    """Damages a gzip file in one of several ways."""
    middle, flipped = len(content) // 2, bytes(byte ^ 0xFF for byte in content)
    return {
        "cut trailer": content[:-6],
        "cut": content[:-9],
        "cut in the middle": content[:middle],
        "flipped in the middle": content[:middle] + flipped[middle : middle + 9] + content[middle + 9 :],
        "checksum": content[:-8] + flipped[-8:-4] + content[-4:],
        "length": content[:-4] + flipped[-4:],
        "garbage": content + b"no gzip member",
        "joined and cut": content + content[:middle],
        "joined, second header damaged": content + b"\x1f" + content[2:],
    }[damage]


DAMAGES = ["cut trailer", "cut", "cut in the middle", "flipped in the middle", "checksum", "length", "garbage"]
DAMAGES += ["joined and cut", "joined, second header damaged"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_gzip_is_read_up_to_the_damage_which_is_counted(damage, name, tmp_path):
    noise = {
        name: random.Random(name).randbytes(700) if name.endswith("jpg") else members()[name] for name in members()
    }
    content = gzip.compress(write_tar(tmp_path / "whole", noise).read_bytes())
    path = tmp_path / name
    path.write_bytes(damage_gzip(content, damage))
    texts, errors = read(path)
    texts = texts[:-1] if texts[-1] == "" else texts  # A sample that is cut between its files.
    assert len(texts) >= (2 if "middle" in damage else 6)
    assert texts == (WHOLE * 2)[: len(texts)]
    assert len(errors) == 1
    assert re.fullmatch(r"damaged tar: byte [\d,]+: the compressed file is damaged or cut short \(.+\)", errors[0])


@pytest.mark.parametrize(
    ("name", "place", "texts"), [("3.jpg", "7,680", WHOLE), ("5.txt", "14,336", [*WHOLE[:5], ""])]
)
def test_headers_that_are_flipped_in_a_gzip_are_counted_beside_its_checksum(name, place, texts, tmp_path):
    content = bytearray(gzip.compress(write_tar(tmp_path / "whole", members()).read_bytes(), compresslevel=0))
    start = content.index(name.encode())
    content[start : start + 5] = b"\xff" * 5
    (tmp_path / "a.tar.gz").write_bytes(content)
    found, errors = read(tmp_path / "a.tar.gz")
    assert found == texts
    assert [error.partition(" (")[0] for error in errors] == [
        f"damaged tar: byte {place}: no header where one belongs",
        "damaged tar: byte 20,480: the compressed file is damaged or cut short",
    ]


def test_urls_in_the_json_are_refused_while_planning(tmp_path):
    records = [{"url": f"https://a.example/{number}.jpg"} for number in range(3)]
    path = write_tar(tmp_path / "a.tar", samples_with_records(records))
    with pytest.raises(ValueError, match="URLs are not fetched"):
        read(path, image_column="url")


@pytest.mark.parametrize("module", [bz2, lzma])
def test_a_tar_that_is_compressed_in_another_way_is_refused(module, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(module.compress(write_tar(tmp_path / "whole", members()).read_bytes()))
    with pytest.raises(ValueError, match=r"a\.tar is compressed, and not with gzip"):
        read(path)


def test_whole_tars_of_every_kind_have_no_errors(tmp_path):
    plain = write_tar(tmp_path / "a.tar", members())
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.tar").write_bytes(plain.read_bytes()[: 12 * 1280 + 1024])  # Go's writer leaves two blocks.
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        for name, content in members(prefix="long-ünï/" + "x" * 120).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for name in ("a.tar", "b.tar.gz", "c.tar", "d.tar"):
        assert read(tmp_path / name) == (WHOLE, []), name


def test_members_that_are_no_data_are_passed_over(tmp_path):
    found = {}
    for name, content in members().items():
        found |= {f"./._{name}": b"mac", f"__MACOSX/{name}": b"mac", f".cache/{name}": b"x", f"./{name}": content}
    path = write_tar(tmp_path / "a.tar", {"__init__.txt": b"x"} | found)
    assert read(path) == (WHOLE, [])


def test_the_image_is_the_member_that_the_setting_names(tmp_path):
    found = {}
    for number in range(3):
        found |= {f"{number}.png": b"mask", f"{number}.jpg": b"photo", f"{number}.txt": b"x"}
    path = write_tar(tmp_path / "a.tar", found)
    assert images(path, [0, 2]) == [b"photo"] * 2
    assert images(path, [0, 2], image_column="png") == [b"mask"] * 2
    assert images(path, [0], image_column="image") == ["several images in a sample"]
    with pytest.raises(ValueError, match="no column 'webp'; it has __key__, png, jpg, txt"):
        images(path, [0], image_column="webp")


def test_jpg_stands_for_jpeg_too_and_image_for_any_image(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"a", "0.txt": b"x", "1.jpeg": b"b", "1.txt": b"y"})
    assert images(path, [0, 1]) == [b"a", b"b"]
    path = write_tar(tmp_path / "b.tar", {"0.jpg": b"a", "0.txt": b"x", "1.png": b"b", "1.txt": b"y"})
    assert images(path, [0, 1], image_column="image") == [b"a", b"b"]
    assert images(path, [0, 1]) == [b"a", "no image"]


def samples_with_records(records):
    found = {}
    for number, record in enumerate(records):
        content = record if isinstance(record, bytes) else json.dumps(record).encode()
        found |= {f"{number}.jpg": b"x", f"{number}.txt": b"short", f"{number}.json": content}
    return found


def test_a_key_of_the_json_is_read_where_the_setting_names_it(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples_with_records([{"recaption": "long"}, {}, {"recaption": "longer"}]))
    assert read(path, alt_text_column="recaption")[0] == ["long", "", "longer"]
    assert read(path)[0] == ["short"] * 3
    assert read(path, alt_text_column="alt_text")[0] == ["short"] * 3


BAD_RECORDS = [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"[1]", b"{", b"\xff\xfe"]


@pytest.mark.parametrize("record", BAD_RECORDS, ids=range(len(BAD_RECORDS)))
def test_a_json_member_that_is_none_costs_its_sample_only_if_the_text_is_there(record, tmp_path):
    path = write_tar(tmp_path / "a.tar", samples_with_records([{"recaption": "a", "b": 1}, record]))
    texts, errors = read(path, alt_text_column="recaption")
    assert texts == ["a"]
    assert len(errors) == 1
    assert errors[0].startswith("json member is n")
    source = SourceArguments(str(path), **SETTINGS, keep_columns=["b"])
    batch = next(read_pairs(plan_shards(source)[0], source=source))
    assert batch["b"] == ["1", None]
    assert batch["note"][0] is None
    assert batch["note"][1].startswith("json member is n")


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"x", "0.txt": mark + b"octopus", "0.json": mark + b'{"a": "b"}'})
    assert read(path)[0] == ["octopus"]
    assert read(path, alt_text_column="a")[0] == ["b"]


def test_a_first_sample_without_text_refuses_nothing(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"x", "b.jpg": b"y", "b.json": b"{}"} | members())
    assert read(path)[0] == ["", "", *WHOLE]


def test_samples_whose_files_lie_apart_are_refused(tmp_path):
    names = sorted(members(), key=lambda name: name.rpartition(".")[2])
    path = write_tar(tmp_path / "a.tar", {"first.jpg": b"x", "first.txt": b"y"} | {n: members()[n] for n in names})
    with pytest.raises(ValueError, match=r"a\.tar: files of sample '0' do not lie beside one another .*byte 11,264"):
        read(path)


def test_a_whole_sample_that_is_there_twice_refuses_nothing(tmp_path):
    content = write_tar(tmp_path / "a.tar", members()).read_bytes()[: 12 * 1280]
    (tmp_path / "a.tar").write_bytes(content * 2 + bytes(1024))
    assert read(tmp_path / "a.tar") == (WHOLE * 2, [])


def sparse_header(name, size):
    """A GNU sparse member of any size without a byte of data."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = f"{size:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


@pytest.mark.parametrize("extension", ["jpg", "txt", "json"])
def test_members_that_claim_gigabytes_are_not_read(extension, tmp_path):
    path = write_tar(tmp_path / "a.tar", members() | {"0.json": b'{"b": 1}'})
    rest = {"jpg": b"", "txt": b""}
    rest.pop(extension, None)
    tail = write_tar(tmp_path / "tail", {f"z.{kind}": content for kind, content in rest.items()}).read_bytes()
    path.write_bytes(path.read_bytes()[: 12 * 1280] + sparse_header(f"z.{extension}", 2_400_000_000) + tail)
    tracemalloc.start()
    texts, errors = read(path)
    found = images(path, [6])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000
    assert texts[:6] == WHOLE
    assert (errors != []) == (extension == "txt")
    assert (found == ["image file too large"]) == (extension == "jpg")


@pytest.mark.parametrize("kind", [b"L", b"x"])
@pytest.mark.parametrize("size", [b"17777777777\0", b"\x80" + b"\0" * 6 + b"\x7f" + b"\xff" * 4, b"\xff" * 12])
def test_headers_of_hostile_sizes_cost_themselves(kind, size, tmp_path):
    path = write_tar(tmp_path / "a.tar", members())
    info = tarfile.TarInfo("bad")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content = path.read_bytes()
    path.write_bytes(content[:2560] + bytes(header) + content[2560:])
    texts, errors = read(path)
    assert texts == WHOLE
    assert len(errors) == 1
    assert errors[0].startswith("damaged tar: byte 2,560")


def test_a_tar_without_samples_is_passed_over(tmp_path, caplog):
    write_tar(tmp_path / "a.tar", {})
    write_tar(tmp_path / "b.tar", members())
    assert read(tmp_path / "*.tar") == (WHOLE, [])
    assert f"{tmp_path / 'a.tar'} has no samples" in caplog.messages
