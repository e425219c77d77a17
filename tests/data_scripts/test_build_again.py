"""A second build in the same folder: with the same settings, with others, and from a stage on."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from tiny_build import (
    ENTITIES,
    error_of,
    make_pairs,
    read_build,
    write_entities,
    write_pairs,
)

from data_scripts import phases
from data_scripts.arguments import STAGES
from data_scripts.build_i2e import main
from data_scripts.linking.link_weights import default_weights


CHANGES = [
    ({"max_text_length": 9}, "max_text_length"),
    ({"disambiguation": "both"}, "keeps_candidates"),
    ({"entity_template": "a photo of {name}"}, "entity_template"),
    ({"image_size": 10}, "image_size"),
]


@pytest.mark.parametrize(("settings", "name"), CHANGES, ids=[name for _, name in CHANGES])
def test_other_settings_in_the_same_folder_are_refused(settings, name, recipe, tmp_path, capsys):
    main(recipe())
    before = read_build(tmp_path / "i2e")
    message = error_of(capsys, recipe(**settings))
    assert "was built with other settings" in message
    assert f"{name} changed" in message or f"{name}," in message
    assert "--restart_from" in message
    assert read_build(tmp_path / "i2e") == before


def test_another_input_in_the_same_folder_is_refused(recipe, tmp_path, capsys):
    main(recipe())
    pairs = write_pairs(tmp_path / "pairs.parquet", make_pairs(37))
    assert "pairs changed" in error_of(capsys, recipe(pairs=pairs))


def test_another_model_in_the_same_folder_is_refused(recipe, tmp_path, capsys, clip):
    main(recipe())
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(clip).iterdir():
        content = path.read_bytes()
        (other / path.name).write_bytes(content[:-4] + b"\0\0\0\0" if path.name.endswith("safetensors") else content)
    assert "filter_model changed" in error_of(capsys, recipe(filter_model=other))


def test_restart_from_a_stage_does_what_depends_on_it_again(recipe, tmp_path):
    main(recipe())
    linked = tmp_path / "i2e" / "stages" / "link_entities" / "000000.parquet"
    before = linked.stat().st_mtime_ns
    main(recipe(entity_template="a photo of {name}", restart_from="score_entities"))
    assert linked.stat().st_mtime_ns == before
    fresh = recipe(entity_template="a photo of {name}", output_dir=tmp_path / "fresh" / "i2e")
    main(fresh)
    assert read_build(tmp_path / "i2e") == read_build(tmp_path / "fresh" / "i2e")


@pytest.mark.parametrize("stage", STAGES)
def test_restart_with_the_same_settings_writes_everything_from_there_again(stage, recipe, tmp_path):
    main(recipe())
    unchanged = {"settings.json", ".lock"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "i2e").rglob("*.*") if path.name not in unchanged}
    content = read_build(tmp_path / "i2e")
    main(recipe(restart_from=stage))
    assert read_build(tmp_path / "i2e") == content
    kept = {path.parts[len(tmp_path.parts) + 2] for path, time in before.items() if path.stat().st_mtime_ns == time}
    assert kept & set(STAGES) == set(STAGES[: STAGES.index(stage)])
    assert not any(name.endswith(".parquet") or name == "write_dataset" for name in kept)


def test_other_link_weights_are_refused_or_link_everything_again(recipe, tmp_path, monkeypatch):
    def probabilities():
        files = sorted((tmp_path / "i2e" / "stages" / "link_entities").glob("*.parquet"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return {(row["image_id"], one["entity_id"]): one["probability"] for row in rows for one in row["candidates"]}

    main(recipe(rows_per_shard=20))
    before, weights = probabilities(), default_weights()
    surer = replace(weights, meaning=weights.meaning | {"constant": weights.meaning["constant"] + 1.0})
    monkeypatch.setattr(phases, "default_weights", lambda: surer)
    with pytest.raises(ValueError, match="link_weights changed"):
        main(recipe(rows_per_shard=20))
    assert probabilities() == before
    main(recipe(rows_per_shard=20, restart_from="link_entities"))
    after = probabilities()
    assert all(after[link] > probability for link, probability in before.items())


def test_another_threshold_scores_nothing_again(recipe, tmp_path):
    main(recipe())
    scored = tmp_path / "i2e" / "stages" / "score_entities"
    times = {path.name: path.stat().st_mtime_ns for path in scored.iterdir()}
    main(recipe(keep_fraction=0.5))
    assert {path.name: path.stat().st_mtime_ns for path in scored.iterdir()} == times
    main(recipe(keep_fraction=0.5, output_dir=tmp_path / "fresh" / "i2e"))
    assert read_build(tmp_path / "i2e") == read_build(tmp_path / "fresh" / "i2e")


def test_a_finished_build_is_left_as_it_is(recipe, tmp_path):
    main(recipe())
    path = next((tmp_path / "i2e" / "data").iterdir())
    before = path.stat().st_mtime_ns
    main(recipe())
    assert path.stat().st_mtime_ns == before


def test_settings_are_kept_beside_the_stages(recipe, tmp_path):
    main(recipe())
    settings = json.loads((tmp_path / "i2e" / "stages" / "settings.json").read_text())
    assert settings["score_entities"]["batch_size"] == 5


def test_a_limit_builds_from_the_first_rows_and_is_another_build(recipe, tmp_path, capsys):
    main(recipe(limit=20))
    data = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
    assert data["image_id"] == [f"image-{row:03d}" for row in range(20) if row % 6 != 5]
    assert "pairs changed" in error_of(capsys, recipe())


def test_settings_that_failed_before_anything_was_done_can_be_corrected(recipe, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("data_scripts.phases.recognize_mentions", fail)
        main(recipe(max_text_length=9))
    main(recipe())
    assert "max_text_length changed" in error_of(capsys, recipe(max_text_length=9))


def fail(*args, **kwargs):
    raise RuntimeError


def test_another_knowledge_base_in_the_same_folder_is_refused(recipe, tmp_path, capsys):
    main(recipe())
    before = read_build(tmp_path / "i2e")
    others = [("Q1", "octopus", "another description", [], 50), *ENTITIES[1:]]
    source = write_entities(tmp_path / "entities.jsonl", others)
    assert "knowledge_base changed" in error_of(capsys, recipe(knowledge_base=source, num_processes=1))
    assert read_build(tmp_path / "i2e") == before
