"""Every file of a published checkpoint or index is free of secrets and of this machine, and true."""

import json
import re
import sys

import pytest
import yaml
from hub_server import connected_hub
from tiny import make_tiny_config, make_tiny_processor, write_entities

from modeling_mofi import MofiForPreTraining
from modeling_mofi.hub.licenses import check_license
from modeling_mofi.hub.model_card import SETTINGS, write_model_card
from modeling_mofi.hub.publishing import publish_checkpoint
from modeling_mofi.search.entity_index import EntityIndex


TOKEN, PASSWORD, SIGNATURE, FOLDER = "hf_" + "s3cr3t" * 5, "passw0rd", "X-Amz-Signature=abc", "folder-of-ann"
SECRETS = (TOKEN, PASSWORD, SIGNATURE, FOLDER)
TEXT = f"https://ann:{PASSWORD}@h.org/x?{SIGNATURE} '/home/{FOLDER}/a b' {TOKEN} (see ~/{FOLDER}/x) | `*[x](y)*` <b>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in which every setting that takes a text has a secret and a path in it."""
    folder = tmp_path_factory.mktemp("run") / FOLDER / TOKEN / "mofi"
    MofiForPreTraining(make_tiny_config()).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    write_entities(folder / "entities.parquet")
    settings = dict.fromkeys(SETTINGS, TEXT) | {"recipe": "multi-task", "text_proportions": {TEXT: [TEXT]}}
    (folder / "recipe.json").write_text(json.dumps(settings | {"other": TEXT, "hub_token": "anything"}))
    (folder / "training_args.json").write_text(json.dumps({"logging_dir": f"/home/{FOLDER}/runs"}))
    entry = {"task": {"type": "x", "name": TEXT}, "dataset": {"type": f"/home/{FOLDER}/x.parquet", "name": TEXT}}
    entry["metrics"] = [{"type": TEXT, "value": 0.5}]
    index = {"model-index": [{"name": str(folder), "results": [entry]}]}
    (folder.parent / "results.model-index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def hub(monkeypatch):
    with connected_hub(monkeypatch) as server:
        yield server


def secrets_in(files):
    return [(name, secret) for name, content in files.items() for secret in SECRETS if secret.encode() in content]


def card_of(files):
    front_matter, _, body = files["README.md"].decode().removeprefix("---\n").partition("---\n")
    return yaml.safe_load(front_matter), body


def test_no_file_of_a_checkpoint_tells_a_secret(checkpoint, hub):
    results = checkpoint.parent / "results.json"
    publish_checkpoint(checkpoint, "me/x", with_entity_head=True, results=results, notice=TEXT)
    files = hub.files["me/x"]
    assert {"recipe.json", "README.md", "config.json", "tokenizer_config.json", "entities.parquet"} <= set(files)
    assert not secrets_in(files)
    assert json.loads(files["recipe.json"])["hub_token"] == "..."
    data, body = card_of(files)
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "x.parquet"
    assert r"\| \`\*\[x\](y)\*\` \<b\>" in body
    assert "<b>" not in re.sub(r"`[^`\n]*`", "", body).replace(r"\<b\>", "")


def test_no_file_of_an_index_tells_a_secret(checkpoint, hub):
    index = EntityIndex.from_checkpoint(checkpoint, source="text")
    index.push_to_hub("me/index", checkpoint="me/x")
    assert "entity_index.json" in hub.files["me/index"] and not secrets_in(hub.files["me/index"])


def test_a_dataset_and_a_base_model_are_linked_where_the_hub_has_them(tmp_path, hub):
    make_tiny_config().save_pretrained(tmp_path)
    hub.files |= {"datasets/me/i2e": {}, "me/base": {}}
    for dataset, base, linked in (("me/i2e", "me/base", True), ("runs/i2e", "out/mofi", False)):
        (tmp_path / "recipe.json").write_text(json.dumps({"dataset": dataset, "init_from": base}))
        publish_checkpoint(tmp_path, "me/x")
        data, body = card_of(hub.files["me/x"])
        assert (data.get("datasets"), data.get("base_model")) == ((["me/i2e"], "me/base") if linked else (None, None))
        assert ("huggingface.co/datasets/" in body) == linked


def test_a_card_says_trained_here_only_of_what_was(tmp_path):
    make_tiny_config().save_pretrained(tmp_path)
    sentence = "trained with the open implementation"
    assert sentence not in write_model_card(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "recipe.json").write_text('{"recipe": "contrastive"}')
    assert sentence in write_model_card(tmp_path).read_text(encoding="utf-8")
    origin = {"license": "other", "license_name": "x", "license_link": "LICENSE", "notice": "It comes from elsewhere."}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert sentence not in card and "It comes from elsewhere." in card and "license_name: x" in card


def test_a_card_of_a_model_without_texts_speaks_of_images_alone(tmp_path):
    config = make_tiny_config()
    for has_text_tower in (True, False):
        config.has_text_tower = has_text_tower
        config.save_pretrained(tmp_path)
        card = write_model_card(tmp_path).read_text(encoding="utf-8")
        for words in ("beside a clip text model", "text_embeds", "Texts are cut off", "images, and texts,"):
            assert (words in card) == has_text_tower, words


@pytest.mark.parametrize("missing", [True, False])
def test_a_card_without_matplotlib_has_no_curve(tmp_path, monkeypatch, missing, caplog):
    make_tiny_config().save_pretrained(tmp_path)
    log = [{"step": step, "loss": 1 / step} for step in (1, 2)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": log}))
    if missing:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert ("(training_curve.png)" in card) != missing and (tmp_path / "training_curve.png").exists() != missing
    assert ("matplotlib, which draws it, is not installed" in caplog.text) == missing


@pytest.mark.parametrize(
    ("license", "name", "link", "message"),
    [
        ("Apache 2.0", None, None, "'Apache 2.0', which is none of the Hub's words; did you mean 'apache-2.0'?"),
        ("my-own", None, None, "say --license other with --license_name"),
        ("other", None, None, "say which with --license_name"),
        ("other", "my-own", None, "where it stands with --license_link"),
        (None, "my-own", None, "belong to --license other"),
    ],
)
def test_a_license_is_one_of_the_hubs_or_says_which(license, name, link, message, tmp_path):
    with pytest.raises(ValueError) as refused:
        check_license(license, name=name, link=link)
    assert message in str(refused.value)


def test_licenses_that_the_hub_knows_pass():
    for license in (None, "mit", "cc-by-nc-4.0", "apple-amlr", "openrail++"):
        check_license(license, name=None, link=None)
    check_license("other", name="my-own", link="LICENSE")
