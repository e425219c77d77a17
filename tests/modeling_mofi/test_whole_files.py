import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from modeling_mofi.whole_files import (
    read_json,
    remove_temporary_files,
    try_read_json,
    write_json,
    write_text,
    write_whole,
)


def test_a_file_has_its_old_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    with write_whole(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(KeyboardInterrupt), write_whole(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "file.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("replace"), replace(*args)))
    monkeypatch.setattr(os, "fsync", lambda *args: (calls.append("fsync"), fsync(*args)))
    write_text(tmp_path / "file.txt", "new")
    assert calls == ["fsync", "replace"]


def test_a_full_disk_names_the_path(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*file\.txt: No space left"), write_whole(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_real_full_disk_names_the_path_whoever_writes(tmp_path, full_disk):
    tensors = {"rows": torch.zeros(1000)}
    with full_disk(100), pytest.raises(OSError, match=r"cannot write .*a\.json"):
        write_json(tmp_path / "a.json", "x" * 1000)
    with full_disk(100), pytest.raises(OSError, match=r"cannot write .*a\.safetensors"):  # noqa: SIM117
        with write_whole(tmp_path / "a.safetensors") as temporary:
            save_file(tensors, temporary)
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_is_not_said_to_be_of_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="source") as caught, write_whole(tmp_path / "file.txt"):
        (tmp_path / "source").read_text()
    assert "cannot write" not in str(caught.value)


def test_equal_contents_are_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": "é", "a": [1]})
    write_json(tmp_path / "b.json", {"a": [1], "b": "é"})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": [1], "b": "é"}


@pytest.mark.parametrize("content", [None, b'{"a": ', b"\xff\xfe"])
def test_json_that_is_missing_or_damaged_is_none(content, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert try_read_json(tmp_path / "a.json") is None


def test_what_was_left_half_written_is_removed(tmp_path):
    write_text(tmp_path / "below" / "file.txt", "whole")
    (tmp_path / "below" / "file.txt.tmp.0123abcd").write_text("half")
    remove_temporary_files(tmp_path)
    assert os.listdir(tmp_path / "below") == ["file.txt"]
