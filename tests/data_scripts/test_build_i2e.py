import json

import datasets
import pyarrow.parquet as pq
import pytest
from tiny_build import (
    BAD_IMAGES,
    make_pairs,
    read_build,
    write_entities,
    write_pairs,
)

from data_scripts.build_i2e import main


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


@pytest.mark.timeout(30)
def test_more_workers_than_shards_is_no_mistake(recipe, tmp_path):
    main(recipe(rows_per_shard=100, num_processes=8))
    assert len(list((tmp_path / "i2e" / "data").iterdir())) == 1


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
