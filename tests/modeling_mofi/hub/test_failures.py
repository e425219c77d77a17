"""Whatever the Hub answers, the user reads one line that says what to do."""

import re
import sys

import pytest
from hub_server import connected_hub
from tiny import make_tiny_config

from data_scripts.report.push import push_to_hub
from modeling_mofi.hub import publishing
from modeling_mofi.user_errors import run_command


# What the Hub answers, by name, and what the user reads. None breaks the connection off.
ANSWERS = {
    "400": (400, r"cannot use what was sent for me/x \(HTTP 400: As the test wants it.\). Mend what it names"),
    "401": (401, r"does not know this token|finds none that this token may see"),
    "402": (402, r"wants to be paid for me/x \(HTTP 402: .*billing"),
    "403": (403, r"refused to write me/x \(HTTP 403: As the test wants it.\). Check that the token may write"),
    "404": (404, r"refused to write me/x, as it finds none .*HTTP 404"),
    "409": (409, r"Somebody else is writing me/x at this moment \(HTTP 409"),
    "413": (413, r"takes no files as large as these for me/x \(HTTP 413.*max_shard_size"),
    "418": (418, r"refused the upload to me/x \(HTTP 418"),
    "422": (422, r"refused the content of me/x \(HTTP 422"),
    "429": (429, r"too many requests from this account or address \(HTTP 429.*Publish again in a while"),
    "500": (500, r"is in trouble \(HTTP 500.*Publish again in a while"),
    "503": (503, r"is in trouble \(HTTP 503.*Publish again in a while"),
    "no JSON": (b"<html>Log in to the wireless network</html>", r"did not answer as the Hub does.*any proxy"),
    "other JSON": (b"[1, 2]", r"did not answer as the Hub does.*any proxy"),
    "empty JSON": (b"{}", r"did not answer as the Hub does.*any proxy"),
    "lost": (None, r"is out of reach.*Check the network"),
}
REQUESTS = {
    "create": "POST /api/repos/create",
    "right": "GET .*/auth-check/write",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "file": "PUT /lfs/",
    "commit": "POST .*/commit/",
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with connected_hub(monkeypatch) as server:
        yield server


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that can be published: what it holds matters to nobody here."""
    make_tiny_config().save_pretrained(tmp_path / "mofi")
    (tmp_path / "mofi" / "model.safetensors").write_bytes(bytes(2000))
    return tmp_path / "mofi"


def line_of(command):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        run_command(command)
    assert isinstance(stopped.value.code, str) and "\n" not in stopped.value.code  # A text means status 1.
    return stopped.value.code


def publish(checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["publish", str(checkpoint), "--repo_id", "me/x"])
    return line_of(publishing.main)


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_to_a_commit_is_explained(name, checkpoint, hub, monkeypatch):
    hub.answers[REQUESTS["commit"]], words = ANSWERS[name]
    line = publish(checkpoint, monkeypatch)
    assert line.startswith("error: ") and re.search(words, line)
    assert line.endswith(f"Nothing is lost: the files are in {checkpoint}.") and not hub.commits


# Of the answer about rights the status counts alone.
@pytest.mark.parametrize(
    ("name", "request_name"),
    [
        (name, request_name)
        for name in ("400", "401", "404", "429", "503", "no JSON", "lost")
        for request_name in REQUESTS
        if request_name != "commit" and (name, request_name) != ("no JSON", "right")
    ],
)
def test_no_request_ends_in_a_traceback(name, request_name, checkpoint, hub, monkeypatch):
    hub.answers[REQUESTS[request_name]] = ANSWERS[name][0]
    line = publish(checkpoint, monkeypatch)
    assert line.startswith("error: ") and line.endswith(f"the files are in {checkpoint}.")


@pytest.mark.parametrize("name", ANSWERS)
def test_a_dataset_is_told_what_helps_a_dataset(name, tmp_path, hub):
    (tmp_path / "data").mkdir()
    for path in ("data/train-0.parquet", "entities.parquet", "report.html", "README.md"):
        (tmp_path / path).write_bytes(b"PAR1" * 500 if "parquet" in path else b"text")
    hub.answers[REQUESTS["commit"]], words = ANSWERS[name]
    line = line_of(lambda: push_to_hub(tmp_path, "me/x", private=True, build_id="1"))
    assert re.search(words.replace("max_shard_size", "--rows_per_file"), line) and "max_shard_size" not in line
    assert line.endswith(f"the dataset is in {tmp_path}.")
