"""Nothing that a build publishes holds a secret, a signed URL or a folder of the machine that built it."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import connected_hub
from tiny_build import BAD_IMAGES, make_pairs

from data_scripts.build_i2e import main


TOKEN, PASSWORD, SIGNATURE, FOLDER = "hf_" + "s3cr3t" * 5, "passw0rd", "X-Amz-Signature=abc", "folder-of-ann"
# What no reader may find, in a text as people write settings.
SECRETS = (TOKEN, PASSWORD, SIGNATURE, FOLDER)
TEXT = f"https://ann:{PASSWORD}@h.org/x?{SIGNATURE} '/home/{FOLDER}/a b' {TOKEN} (see ~/{FOLDER}/x)"


@pytest.fixture
def published(recipe, clip, knowledge_base, tmp_path, monkeypatch):
    """Files of a published build in which every setting that takes a text has all of it in it."""
    folder = tmp_path / FOLDER / TOKEN
    rows = make_pairs(36)
    rows[3]["image"] = {"bytes": BAD_IMAGES["truncated image"], "path": f"/home/{FOLDER}/x.png"}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image_id": f"id {TEXT}", "image": f"image {TEXT}", "alt_text": f"text {TEXT}", "licence": "licence"}
    names = {columns[name]: name for name in columns} | {f"gold {TEXT}": "image_id"}
    folder.mkdir(parents=True)
    arrays = {
        new: pa.array([row[old] for row in rows], image if old == "image" else pa.string())
        for new, old in names.items()
    }
    pq.write_table(pa.table(arrays), folder / "pairs.parquet")
    settings = {
        "pairs": folder / "pairs.parquet",
        "image_root": folder,
        "image_id_column": columns["image_id"],
        "image_column": columns["image"],
        "alt_text_column": columns["alt_text"],
        "gold_column": f"gold {TEXT}",
        "knowledge_base": shutil.copytree(knowledge_base, folder / "kb"),
        "filter_model": shutil.copytree(clip, folder / "clip"),
        "hub_config": TEXT,
        "hub_revision": TEXT,
        "boilerplate": TEXT,
        "not_boilerplate": TEXT,
        "entity_template": "{name} " + TEXT,
        "min_images_per_entity": 1,
        "output_dir": folder / "i2e",
    }
    with connected_hub(monkeypatch) as hub:
        main(recipe(**settings, push_to_hub="me/i2e"))
    return hub.files["datasets/me/i2e"], folder / "i2e"


def test_no_published_file_of_a_build_tells_a_secret(published):
    files, _ = published
    assert {"README.md", "report.html", "entities.parquet", "data/train-00000-of-00001.parquet"} <= set(files)
    found = [(name, secret) for name, content in files.items() for secret in SECRETS if secret.encode() in content]
    assert not found
    assert (
        "pairs: pairs.parquet" in files["README.md"].decode() and "<td>pairs.parquet" in files["report.html"].decode()
    )


def test_what_stays_here_has_its_folders_but_no_secret(published):
    settings = (published[1] / "stages" / "settings.json").read_text(encoding="utf-8")
    assert not [secret for secret in SECRETS[:3] if secret in settings] and FOLDER in settings
    assert json.loads(settings)["score_entities"]["batch_size"] == 5


def test_a_local_build_shows_where_what_cannot_be_read_lies(recipe, tmp_path):
    rows = make_pairs(36)
    rows[3]["image"] = {"bytes": BAD_IMAGES["truncated image"], "path": None}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({name: pa.array([r[name] for r in rows], image if name == "image" else None) for name in rows[0]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    main(recipe(pairs=tmp_path / "pairs.parquet"))
    assert f"<td>{tmp_path / 'pairs.parquet'}" in (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
