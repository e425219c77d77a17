import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from tiny_build import (
    BAD_IMAGES,
    ENTITIES,
    NOISE,
    encode,
    error_of,
    make_pairs,
    read_build,
    write_entities,
    write_pairs,
    write_tar,
)
from transformers import CLIPModel

from data_scripts import phases
from data_scripts.arguments import STAGES
from data_scripts.build_i2e import main
from data_scripts.engine.folder_lock import hold_folder
from data_scripts.engine.job_array import JobArray
from data_scripts.images.filter_model import open_filter_model
from data_scripts.linking.link_weights import default_weights


def test_pairs_become_a_data_set_that_datasets_opens(recipe, tmp_path):
    main(recipe())
    data = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
    assert data.column_names == ["image_id", "image", "alt_text", "entities", "entity_labels", "licence"]
    assert data.features["image"] == datasets.Image()
    assert len(data) == 30  # six texts in turn, one of which names nothing
    first = data[0]
    assert (first["image_id"], first["alt_text"], first["image"].mode) == ("image-000", "1F419_octopus.svg", "RGB")
    assert [entity["name"] for entity in first["entities"]] == ["octopus"]
    table = pq.read_table(tmp_path / "i2e" / "entities.parquet")
    rows = table.to_pylist()
    assert [row["entity_label"] for row in rows] == list(range(len(rows)))
    for row in data:
        assert [rows[label]["entity_id"] for label in row["entity_labels"]] == [
            e["entity_id"] for e in row["entities"]
        ]
    counted = [sum(label in labels for labels in data["entity_labels"]) for label in range(len(rows))]
    assert [row["count"] for row in rows] == counted


def test_data_and_entities_carry_the_id_of_the_build(recipe, tmp_path):
    main(recipe())
    paths = [*(tmp_path / "i2e").glob("data/*.parquet"), tmp_path / "i2e" / "entities.parquet"]
    ids = {pq.read_schema(path).metadata[b"mofi.build_id"] for path in paths}
    assert len(paths) == 2
    assert len(ids) == 1


def test_every_stage_logs_rows_in_rows_out_and_reasons(recipe, caplog):
    with caplog.at_level("INFO"):
        main(recipe())
    assert "recognize_mentions: 36 rows in, 30 out (no mention 6)" in caplog.messages
    for stage in ("link_entities", "decode_images", "score_entities", "filter_entities", "label_entities"):
        assert f"{stage}: 30 rows in, 30 out" in caplog.messages


def test_files_are_of_even_size_whatever_the_shards(recipe, tmp_path):
    main(recipe(rows_per_file=8))
    files = sorted((tmp_path / "i2e" / "data").iterdir())
    assert [path.name for path in files] == [f"train-0000{i}-of-00004.parquet" for i in range(4)]
    assert [pq.read_metadata(path).num_rows for path in files] == [8, 7, 7, 8]


def test_hostile_images_and_texts_are_dropped_with_reasons_and_counts_add_up(recipe, tmp_path, caplog):
    rows = make_pairs(20)
    for row, (_, data) in zip(rows[6:], BAD_IMAGES.items(), strict=False):
        row["image"] = {"bytes": data, "path": None}
        row["alt_text"] = "an octopus"
    texts = [None, "", "\x00" * 9, "octopus " * 40_000]
    for row, text in zip(rows[-4:], texts, strict=True):
        row["alt_text"] = text
    with caplog.at_level("INFO"):
        main(recipe(pairs=write_pairs(tmp_path / "hostile.parquet", rows), min_images_per_entity=1))
    reasons = "; ".join(f"{reason} 1" for reason in BAD_IMAGES)
    line = next(message for message in caplog.messages if message.startswith("decode_images:"))
    assert sorted(line[line.index("(") + 1 : -1].split("; ")) == sorted(reasons.split("; "))
    assert "note: text cut short, 1 rows" in caplog.messages
    for text in ("1F419_octopus.svg", "octopus octopus"):
        data = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
        assert any(alt_text.startswith(text) for alt_text in data["alt_text"])


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


def test_the_image_chooses_among_the_candidates(recipe, tmp_path):
    rows = make_pairs(12)
    for row in rows:
        row["alt_text"] = "turkey"
    pairs = write_pairs(tmp_path / "turkey.parquet", rows)
    settings = {"pairs": pairs, "disambiguation": "image", "min_images_per_entity": 1}
    main(recipe(**settings, min_candidate_probability=0.001))
    scored = pq.read_table(tmp_path / "i2e" / "stages" / "score_entities" / "000000.parquet").to_pylist()
    best = {row["image_id"]: max(row["candidates"], key=lambda c: c["similarity"])["entity_id"] for row in scored}
    data = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
    assert all(len(row["candidates"]) == 2 for row in scored)
    assert {row["image_id"]: row["entities"][0]["entity_id"] for row in data} == best


def test_a_validation_split_is_published(recipe, tmp_path):
    main(recipe(validation_fraction=0.3, min_images_per_entity=2))
    data = datasets.load_dataset(str(tmp_path / "i2e"))
    assert set(data) == {"train", "validation"}
    assert len(data["train"]) + len(data["validation"]) == 30


ERRORS = [
    ({"alt_text_column": "caption"}, "has no column 'caption'"),
    ({"image_column": "picture"}, "has no column 'picture'"),
    ({"keep_columns": "licences"}, "has no column 'licences'"),
    ({"keep_columns": "alt_text"}, "keep_columns names alt_text, which the build makes itself"),
    ({"pairs": "nowhere/pairs.parquet"}, "does not exist"),
    ({"knowledge_base": "nowhere"}, "holds no finished knowledge base"),
    ({"min_similarity": 0.5}, "exactly one of min_similarity and keep_fraction"),
    ({"min_similarity": 3, "keep_fraction": None}, r"cosine in [-1, 1], got 3.0"),
    ({"min_similarity": 1.0, "keep_fraction": None}, "no entity has 2 images"),
    ({"min_images_per_entity": 99}, "no entity has 99 images"),
    ({"disambiguation": "magic"}, "--disambiguation: invalid choice: 'magic' (choose from 'text', 'image', 'both')"),
    ({"min_similarity_by_type": "Q5"}, "min_similarity_by_type must be JSON"),
    ({"max_images_per_entity": 1}, "below min_images_per_entity"),
    ({"alt_texts": "x"}, "--alt_texts"),
    ({"shard_index": 3, "num_shards": 2}, "shard_index is in [0, num_shards)"),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_mistakes_are_named(settings, message, recipe, capsys):
    assert message in error_of(capsys, recipe(**settings))


def test_nothing_to_link_is_an_error_that_says_where_the_rows_went(recipe, tmp_path, capsys):
    rows = make_pairs(4)
    for row in rows:
        row["alt_text"] = "DSC00220"
    message = error_of(capsys, recipe(pairs=write_pairs(tmp_path / "none.parquet", rows)))
    assert "no row is left after link_entities" in message
    assert "'no mention': 4" in message


@pytest.mark.timeout(30)
def test_a_column_that_the_last_file_lacks_is_named_before_any_work(recipe, tmp_path, capsys):
    write_pairs(tmp_path / "part-0.parquet", make_pairs(6))
    rows = [{name: value for name, value in row.items() if name != "licence"} for row in make_pairs(6)]
    write_pairs(tmp_path / "part-1.parquet", rows)
    message = error_of(capsys, recipe(pairs=tmp_path / "part-*.parquet"))
    assert "part-1.parquet has no column 'licence'" in message
    assert not (tmp_path / "i2e").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["tar", "jsonl", "csv"])
def test_other_files_are_looked_at_before_any_work_too(kind, recipe, tmp_path, capsys):
    columns = {"image": "a.png", "alt_text": "octopus", "licence": "CC0"}
    for number, names in enumerate((list(columns), list(columns), ["image", "alt_text"])):
        record = {name: columns[name] for name in names}
        path = tmp_path / f"part-{number}.{kind}"
        if kind == "tar":
            write_tar(path, {"0.png": encode(NOISE, "PNG"), "0.json": json.dumps(record).encode()})
        elif kind == "jsonl":
            path.write_text(json.dumps(record) + "\n")
        else:
            path.write_text(f"{','.join(names)}\n{','.join(record.values())}\n")
    message = error_of(capsys, recipe(pairs=tmp_path / f"part-*.{kind}", image_id_column=None))
    assert f"part-2.{kind}" in message
    assert "'licence'" in message
    assert not (tmp_path / "i2e").exists()


@pytest.mark.timeout(30)
def test_more_workers_than_shards_is_no_mistake(recipe, tmp_path):
    main(recipe(rows_per_shard=100, num_processes=8))
    assert len(list((tmp_path / "i2e" / "data").iterdir())) == 1


def test_weights_as_pickle_are_never_opened(recipe, tmp_path, clip, capsys):
    """A model folder whose only weights are a pickle that would run code."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in Path(clip).glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    flag = tmp_path / "code ran"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch \"{flag}\"'\ntR.".encode())
    assert "has no weights as safetensors" in error_of(capsys, recipe(filter_model=folder))
    with pytest.raises(OSError, match="safetensors"):
        open_filter_model(str(folder))
    assert not flag.exists()


def test_the_recipe_in_the_card_builds_the_same_data_set(recipe, tmp_path):
    main(recipe())
    card = (tmp_path / "i2e" / "README.md").read_text(encoding="utf-8")
    text = card[card.index("```yaml\n") + 8 :]
    (tmp_path / "again.yaml").write_text(text[: text.index("```")], encoding="utf-8")
    main([str(tmp_path / "again.yaml"), "--output_dir", str(tmp_path / "again" / "i2e")])
    assert read_build(tmp_path / "i2e") == read_build(tmp_path / "again" / "i2e")


def test_the_card_tells_the_splits_and_features(recipe, tmp_path):
    main(recipe())
    info = datasets.load_dataset_builder(str(tmp_path / "i2e")).info
    assert info.splits["train"].num_examples == 30
    assert info.features["entity_labels"] == datasets.List(datasets.Value("int64"))


def test_the_report_shows_images_counts_and_threshold(recipe, tmp_path):
    main(recipe(keep_fraction=0.7))
    page = (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
    assert page.split("<h2>Images</h2>")[1].split("<h2>")[0].count("<figure>") == 30
    assert "similarity below threshold 9" in page
    assert "it keeps 7" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_report_measures_against_gold(recipe, tmp_path):
    rows = make_pairs(36)
    names = {"1F419_octopus.svg": "Q1", "Flag of Turkey": "Q3", "a red panda in a tree": "Q8", "two cherries": "Q9"}
    for row in rows:
        row["gold"] = names.get(row["alt_text"], "Q99")
    pairs = write_pairs(tmp_path / "gold.parquet", rows)
    main(recipe(pairs=pairs, gold_column="gold", gold_text_column="gold"))
    page = (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
    assert 'named by the text that were found (recall)<td class="num">66.7%<td class="num">36' in page
    assert 'entities that are the image&#39;s own (precision)<td class="num">80.0%<td class="num">30' in page


def test_settings_are_kept_beside_the_stages(recipe, tmp_path):
    main(recipe())
    settings = json.loads((tmp_path / "i2e" / "stages" / "settings.json").read_text())
    assert settings["score_entities"]["batch_size"] == 5


def test_a_type_keeps_a_fraction_of_its_own(recipe, tmp_path):
    lines = write_entities(tmp_path / "entities.jsonl").read_text(encoding="utf-8").splitlines()
    entities = [json.loads(line) | {"types": ["Q99"] if '"octopus"' in line else []} for line in lines]
    source = tmp_path / "typed.jsonl"
    source.write_text("\n".join(map(json.dumps, entities)), encoding="utf-8")
    settings = {"knowledge_base": source, "min_images_per_entity": 1}
    main(recipe(**settings, keep_fraction_by_type='{"Q99": 0.5}'))
    counts = pq.read_table(tmp_path / "i2e" / "entities.parquet").to_pylist()
    assert {row["name"]: row["count"] for row in counts if row["name"] in ("octopus", "red panda")} == {
        "octopus": 3,
        "red panda": 6,
    }
    scored = pq.read_table(tmp_path / "i2e" / "stages" / "score_entities" / "000000.parquet").to_pylist()
    assert len({row["candidates"][0]["similarity"] for row in scored if "octopus" in row["alt_text"]}) == 2
    assert "Types with thresholds of their own: Q99" in (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")


def test_the_report_says_what_speaks_against_the_data(recipe, tmp_path):
    rows = make_pairs(24)
    for row in rows[::2]:
        row["image"] = {"bytes": BAD_IMAGES["truncated image"], "path": None}
    main(recipe(pairs=write_pairs(tmp_path / "half.parquet", rows), min_images_per_entity=1))
    page = (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
    assert "checks say: look closer" in page
    assert f"<tr><td>truncated image<td>{tmp_path / 'half.parquet'}<td>0<td>image-000<td>" in page
    assert '<li class="bad">60.0% of the images could not be used.' in page
    assert '<li class="good">17% of the texts name no entity' in page


def test_a_filter_model_that_has_learned_nothing_is_found_out(recipe, tmp_path):
    main(recipe())
    page = (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
    assert '<li class="bad">Given an image&#39;s own entity and another image&#39;s, the filter model' in page
    folder = tmp_path / "i2e" / "stages" / "score_entities"
    scored = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    wins = [row["candidates"][0]["similarity"] > row["control"] for row in scored if row["control"] is not None]
    assert f"for {sum(wins) / len(wins):.0%} of {len(wins)} images" in page


def test_the_report_shows_what_lies_just_above_and_just_below_the_threshold(recipe, tmp_path):
    main(recipe(keep_fraction=0.5))
    page = (tmp_path / "i2e" / "report.html").read_text(encoding="utf-8")
    above, below = page.split("<h3>Just above: kept</h3>")[1].split("<h3>Just below: dropped</h3>")
    below = below.split("<h2>")[0]
    assert (above.count("<figure>"), below.count("<figure>")) == (12, 12)
    assert "dropped-tag" not in above
    assert "kept-tag" not in below


def test_thresholds_by_type_that_cannot_be_meant_are_refused(recipe, capsys):
    assert "fractions in (0, 1]" in error_of(capsys, recipe(keep_fraction_by_type='{"Q5": 2}'))
    both = {"keep_fraction_by_type": '{"Q5": 0.2}', "min_similarity_by_type": '{"Q5": 0.2}'}
    assert "both name Q5" in error_of(capsys, recipe(**both))


def test_a_limit_builds_from_the_first_rows_and_is_another_build(recipe, tmp_path, capsys):
    main(recipe(limit=20))
    data = datasets.load_dataset(str(tmp_path / "i2e"), split="train")
    assert data["image_id"] == [f"image-{row:03d}" for row in range(20) if row % 6 != 5]
    assert "pairs changed" in error_of(capsys, recipe())


MISSING = [
    ({"filter_model": "nowhere/clip"}, "filter_model nowhere/clip is no folder of a model"),
    ({"spacy_model": "xx_none"}, "spacy_model xx_none is not installed"),
]


@pytest.mark.parametrize(("settings", "message"), MISSING)
def test_a_missing_model_is_named_before_any_work(settings, message, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in error_of(capsys, recipe(**settings))
    assert not (tmp_path / "i2e").exists()


def test_settings_that_failed_before_anything_was_done_can_be_corrected(recipe, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("data_scripts.phases.recognize_mentions", fail)
        main(recipe(max_text_length=9))
    main(recipe())
    assert "max_text_length changed" in error_of(capsys, recipe(max_text_length=9))


def fail(*args, **kwargs):
    raise RuntimeError


def test_a_filter_model_that_answers_nan_is_called_that(recipe, tmp_path, clip, capsys):
    model = CLIPModel.from_pretrained(clip)
    model.visual_projection.weight.data[0] = float("nan")
    folder = shutil.copytree(clip, tmp_path / "damaged")
    model.save_pretrained(folder)
    assert f"filter_model {folder} answers NaN" in error_of(capsys, recipe(filter_model=folder))


def test_a_second_run_in_one_folder_says_so_and_ends(recipe, tmp_path, capsys):
    with hold_folder(tmp_path / "i2e" / "stages"):
        assert "another run is at work in" in error_of(capsys, recipe())
        assert "another run is at work in" in error_of(capsys, recipe(num_shards=2, shard_index=0))
    with hold_folder(tmp_path / "i2e" / "stages", JobArray(2, 1)):
        assert "another run is at work in" in error_of(capsys, recipe(num_shards=2, shard_index=1))
        assert "another run is at work in" in error_of(capsys, recipe())
        main(recipe(num_shards=2, shard_index=0))
    assert list((tmp_path / "i2e" / "stages" / "link_entities").glob("*.json"))


def test_another_knowledge_base_in_the_same_folder_is_refused(recipe, tmp_path, capsys):
    main(recipe())
    before = read_build(tmp_path / "i2e")
    others = [("Q1", "octopus", "another description", [], 50), *ENTITIES[1:]]
    source = write_entities(tmp_path / "entities.jsonl", others)
    assert "knowledge_base changed" in error_of(capsys, recipe(knowledge_base=source, num_processes=1))
    assert read_build(tmp_path / "i2e") == before
