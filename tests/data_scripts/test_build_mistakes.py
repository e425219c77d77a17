"""What a build refuses, by name and before any work where that can be."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_build import (
    NOISE,
    encode,
    error_of,
    make_pairs,
    write_pairs,
    write_tar,
)
from transformers import CLIPModel

from data_scripts.build_i2e import main
from data_scripts.engine.folder_lock import hold_folder
from data_scripts.engine.job_array import JobArray
from data_scripts.images.filter_model import open_filter_model


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


def test_weights_as_pickle_are_never_opened(recipe, tmp_path, clip, capsys):
    """A model folder whose only weights are a pickle that would run code."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in Path(clip).glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    flag = tmp_path / "code ran"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch \"{flag}\"'\ntR.".encode())
    assert "has no weights in safetensors (only pytorch_model.bin" in error_of(capsys, recipe(filter_model=folder))
    with pytest.raises(ValueError, match="safetensors"):
        open_filter_model(str(folder))
    assert not flag.exists()


def test_thresholds_by_type_that_cannot_be_meant_are_refused(recipe, capsys):
    assert "fractions in (0, 1]" in error_of(capsys, recipe(keep_fraction_by_type='{"Q5": 2}'))
    both = {"keep_fraction_by_type": '{"Q5": 0.2}', "min_similarity_by_type": '{"Q5": 0.2}'}
    assert "both name Q5" in error_of(capsys, recipe(**both))


MISSING = [
    ({"filter_model": "nowhere/clip"}, "filter_model nowhere/clip is neither a folder with a model nor"),
    ({"spacy_model": "xx_none"}, "spacy_model xx_none is not installed"),
]


@pytest.mark.parametrize(("settings", "message"), MISSING)
def test_a_missing_model_is_named_before_any_work(settings, message, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in error_of(capsys, recipe(**settings))
    assert not (tmp_path / "i2e").exists()


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
