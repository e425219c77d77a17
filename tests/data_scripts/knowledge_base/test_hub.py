"""A knowledge base goes to the Hub and comes back, and tells what it knows."""

import json
import sys
from pathlib import Path

import pytest
import yaml


sys.path.insert(0, str(Path(__file__).parents[2]))  # For the Hub's stand-in.

from hub_server import connected_hub
from huggingface_hub import constants
from tiny_build import make_pairs, read_build, write_entities, write_pairs

from data_scripts import build_knowledge_base as builder
from data_scripts.build_i2e import main as build
from data_scripts.knowledge_base import look_up
from data_scripts.knowledge_base.hub import find_knowledge_base
from data_scripts.knowledge_base.store import KnowledgeBase
from modeling_mofi.user_errors import run_command


REPO = "datasets/me/kb"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with connected_hub(monkeypatch) as server:
        yield server


@pytest.fixture
def published(hub, monkeypatch, tmp_path):
    """The server with a knowledge base, built and published by the command in a folder of this machine."""
    source = write_entities(tmp_path / "entities.jsonl")
    flags = ["--source", str(source), "--output_dir", str(tmp_path / "kb"), "--exclusions", "null"]
    monkeypatch.setattr(sys, "argv", ["build", *flags, "--push_to_hub", "me/kb", "--private", "false"])
    builder.main()
    return hub


def shown(capsys, *words):
    """What the command says."""
    capsys.readouterr()
    look_up.main(words)
    return capsys.readouterr().out


def test_all_tables_and_a_card_are_published_and_no_path_of_this_machine(published, tmp_path):
    files = published.files[REPO]
    tables = set(json.loads((tmp_path / "kb" / "manifest.json").read_text())["files"])
    assert set(files) - {".gitattributes"} == tables | {"manifest.json", "README.md"}
    assert {"entities.arrow", "aliases.marisa"} <= tables
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    front_matter, _, body = files["README.md"].decode().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front_matter)["language"] == ["en"] and "license" not in yaml.safe_load(front_matter)
    assert "# 14 entities" in body and "--knowledge_base me/kb" in body and "source: entities.jsonl" in body


def test_a_finished_folder_is_only_published_again(published, tmp_path, monkeypatch):
    before = (tmp_path / "kb" / "entities.arrow").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-4], "--push_to_hub", "me/again"])
    builder.main()
    assert "datasets/me/again" in published.files
    assert (tmp_path / "kb" / "entities.arrow").stat().st_mtime_ns == before


def test_a_build_takes_it_from_the_hub_and_writes_down_which(published, recipe, tmp_path):
    commit = published.head(REPO)
    pairs = write_pairs(tmp_path / "pairs.parquet", make_pairs(36))
    build(recipe(pairs=pairs, knowledge_base=tmp_path / "kb", output_dir=tmp_path / "here" / "i2e"))
    build(recipe(pairs=pairs, knowledge_base="me/kb", output_dir=tmp_path / "there" / "i2e"))
    here, there = (read_build(tmp_path / name / "i2e") for name in ("here", "there"))
    different = {name for name in here if here[name] != there[name]}
    assert different == {"README.md", "stages/settings.json"} & set(here)
    assert f"knowledge_base: me/kb@{commit}" in there["README.md"].decode()
    settings = json.loads((tmp_path / "there" / "i2e" / "stages" / "settings.json").read_text())
    assert settings["knowledge_base"] == f"me/kb@{commit}"


def test_only_the_tables_are_fetched_and_once(published):
    folder, name = find_knowledge_base("me/kb")
    assert not (Path(folder) / "README.md").exists() and len(KnowledgeBase(folder)) == 14
    fetched = [request for request in published.requests if request.startswith("GET") and "/resolve/" in request]
    published.requests.clear()
    assert find_knowledge_base(name) == (folder, name)
    assert fetched and not [request for request in published.requests if "/resolve/" in request]


def test_what_is_in_the_cache_needs_no_network(published, monkeypatch):
    folder, name = find_knowledge_base("me/kb")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    published.requests.clear()
    assert find_knowledge_base("me/kb") == find_knowledge_base(name) == (folder, name)
    assert not published.requests
    with pytest.raises(ConnectionError, match="me/other is no folder here, and the Hub is out of reach"):
        find_knowledge_base("me/other")


def test_one_that_is_not_whole_is_refused(published):
    published.files[REPO]["candidate_priors.npy"] = b"cut"
    with pytest.raises(ValueError, match="me/kb on the Hub is not whole: candidate_priors.npy"):
        find_knowledge_base("me/kb")


def test_a_name_is_shown_with_what_it_may_mean(published, tmp_path, capsys):
    lines = shown(capsys, str(tmp_path / "kb"), "turkey").splitlines()
    assert lines[0] == "'turkey' may mean 2:"
    assert [line.split()[:3] for line in lines[1:]] == [["83.1%", "Q3", "Turkey,"], ["16.9%", "Q2", "turkey,"]]


def test_an_entity_is_shown_with_its_types_links_aliases_and_page(tmp_path, capsys):
    facts = {"types": ["Q11", "Q999"], "links": ["Q2", "Q3"], "aliases": ["La dame de fer"], "num_sitelinks": 200}
    lines = [{"entity_id": "Q1", "name": "Eiffel Tower", "description": "tower in Paris", "has_image": True, **facts}]
    lines += [{"entity_id": f"Q{number}", "name": name} for number, name in ((2, "Paris"), (3, "iron"), (11, "tower"))]
    source = tmp_path / "entities.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    args = builder.KnowledgeBaseArguments(source=str(source), output_dir=str(tmp_path / "kb"), exclusions=None)
    folder = str(builder.build_knowledge_base(args))
    assert [line.split(maxsplit=1) for line in shown(capsys, folder, "Q1").splitlines()] == [
        ["Q1", "Eiffel Tower, tower in Paris"],
        ["page", "https://www.wikidata.org/wiki/Q1"],
        ["wikis", "200"],
        ["aliases", "La dame de fer"],
        ["types", "tower (Q11), Q999"],
        ["links", "Paris (Q2), iron (Q3)"],
    ]
    assert "links  Paris (Q2) and 1 more" in shown(capsys, folder, "Q1", "--limit", "1")
    assert "4  entities" in shown(capsys, folder)


def test_an_unknown_name_ends_in_one_line_with_names_that_begin_alike(published, tmp_path):
    words = "^error: .* has no name and no id 'octopuss'. Names that begin alike: octopus"
    with pytest.raises(SystemExit, match=words):
        run_command(lambda: look_up.main([str(tmp_path / "kb"), "octopuss"]))


def test_without_a_right_to_write_nothing_is_built(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    flags = ["--source", str(write_entities(tmp_path / "entities.jsonl")), "--output_dir", str(tmp_path / "kb")]
    monkeypatch.setattr(sys, "argv", ["build", *flags, "--push_to_hub", "me/kb"])
    with pytest.raises(PermissionError, match="refused to write me/kb.*nothing has been built yet"):
        builder.main()
    assert not (tmp_path / "kb").exists()
