"""The training command: bad input is refused with what came, what was expected and what to do."""

import json
import logging
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import train_runs
from tiny import IMAGE_TYPE, tiny_rows, write_entities

import train
from modeling_mofi.training import run


@pytest.fixture
def start(tiny_processor, tmp_path):
    """Runs the command in this process with the tiny recipe and changes to it; returns the folder of the run."""
    tiny_processor.save_pretrained(tmp_path / "processor")

    def start(dataset, **changes):
        changes = {"tokenizer_name": str(tmp_path / "processor"), "max_steps": 2, **changes}
        output_dir = tmp_path / "run"
        recipe = train_runs.write_recipe(tmp_path, dataset=str(dataset), output_dir=str(output_dir), **changes)
        train.main([recipe])
        return output_dir

    return start


def rewrite(path, **columns):
    """Replaces columns of a Parquet file; None drops one."""
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table if values is None else table.append_column(name, values)
    pq.write_table(table, path)


def test_a_missing_column_is_named_with_those_that_are_there(start, tiny_pairs):
    with pytest.raises(ValueError, match="no column 'caption'; its columns are image_id, image, alt_text"):
        start(tiny_pairs, recipe="contrastive", alt_text_column="caption")


@pytest.mark.parametrize("name", ["missing.parquet", "runs/missing"])
def test_a_missing_data_set_is_named(start, name):
    with pytest.raises(ValueError, match=f"dataset {name} (does not exist|is no folder here)"):
        start(name, recipe="contrastive")


def test_a_missing_split_is_named_with_those_that_are_there(start, tiny_pairs):
    with pytest.raises(ValueError, match="no split 'test'; its splits are train"):
        start(tiny_pairs, recipe="contrastive", split="test")


def test_an_empty_data_set_is_refused(start, tiny_pairs):
    pq.write_table(pa.table(tiny_rows(0)), tiny_pairs / "train.parquet")
    with pytest.raises(ValueError, match=r"There is no row in .*train\.parquet"):
        start(tiny_pairs, recipe="contrastive")


def test_a_batch_larger_than_the_data_set_is_refused(start, tiny_pairs):
    with pytest.raises(ValueError, match="24 rows, fewer than a global batch of 25 .*Lower per_device_train_batch"):
        start(tiny_pairs, recipe="contrastive", per_device_train_batch_size=25)


def test_a_corrupt_image_is_named_counted_and_replaced(start, tiny_pairs, caplog):
    images = pq.read_table(tiny_pairs / "train.parquet")["image"].to_pylist()
    images[5]["bytes"] = images[5]["bytes"][:60]
    rewrite(tiny_pairs / "train.parquet", image=pa.array(images, IMAGE_TYPE))
    with caplog.at_level(logging.WARNING):
        folder = start(tiny_pairs, recipe="contrastive", num_train_epochs=1, max_steps=-1)
    assert "image image-005 is left out" in caplog.text
    assert "the next one replaces it" in caplog.text
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert max(entry.get("unreadable_images", 0) for entry in history) == 1


def test_a_column_that_holds_no_images_stops_the_run(start, tiny_pairs):
    images = [{"bytes": b"<html>not found</html>", "path": None}] * 24
    rewrite(tiny_pairs / "train.parquet", image=pa.array(images, IMAGE_TYPE))
    with pytest.raises(ValueError, match="32 images in a row are unreadable.*check that the image column"):
        start(tiny_pairs, recipe="contrastive")


def test_entities_of_another_build_are_refused_by_their_build_id(start, tiny_i2e):
    write_entities(tiny_i2e / "entities.parquet", build_id="other")
    with pytest.raises(ValueError, match="is of build tiny, .* of other.*different builds; rebuild"):
        start(tiny_i2e)


def test_entities_of_another_build_are_refused_by_their_ids(start, tiny_i2e):
    write_entities(tiny_i2e / "entities.parquet", entity_ids=("Q0", "Q2", "Q1", "Q3"))
    with pytest.raises(ValueError, match="entity_label 1 is Q2 in .* but a row has Q1 there.*different builds"):
        start(tiny_i2e)


def test_fewer_entities_than_labels_are_refused(start, tiny_i2e):
    write_entities(tiny_i2e / "entities.parquet", entity_ids=("Q0", "Q1", "Q2"))
    with pytest.raises(ValueError, match="entity_label 3 is none in .* but a row has Q3 there"):
        start(tiny_i2e)


def test_entities_that_are_missing_are_asked_for(start, tiny_pairs, tiny_i2e):
    with pytest.raises(ValueError, match="The recipe multi-task needs entities.*or set --recipe contrastive"):
        start(tiny_pairs)
    with pytest.raises(ValueError, match="entities nowhere.parquet does not exist"):
        start(tiny_i2e, entities="nowhere.parquet")


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_asked_for(start, tiny_pairs, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)  # As if there were no such package.
    with pytest.raises(ValueError, match=f"report_to names {tracker}, which is not installed: pip install {tracker}"):
        start(tiny_pairs, recipe="contrastive", report_to=tracker)


def test_an_unknown_tracker_is_refused_with_the_known(start, tiny_pairs):
    with pytest.raises(ValueError, match="tensorbord is not supported, only .*tensorboard, trackio, wandb"):
        start(tiny_pairs, recipe="contrastive", report_to="tensorbord")


def test_an_unknown_key_is_refused_with_the_nearest_known(start, tiny_pairs, capsys):
    with pytest.raises(SystemExit):
        start(tiny_pairs, learning_rat=1)
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in capsys.readouterr().err


def test_an_unknown_augmentation_is_refused(start, tiny_pairs):
    with pytest.raises(ValueError, match="augmentation has the unknown settings blur"):
        start(tiny_pairs, recipe="contrastive", augmentation={"blur": 1})


def test_a_folder_of_another_recipe_is_not_gone_on_with(start, tiny_pairs):
    start(tiny_pairs, recipe="contrastive")
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01, is 0\.5.*Choose another output_dir"):
        start(tiny_pairs, recipe="contrastive", learning_rate=0.5)


def test_a_finished_run_is_left_as_it_is_unless_more_steps_are_asked_for(start, tiny_pairs, caplog):
    folder = start(tiny_pairs, recipe="contrastive", save_steps=2)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        start(tiny_pairs, recipe="contrastive", save_steps=2)
    assert "is trained already" in caplog.text
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    start(tiny_pairs, recipe="contrastive", save_steps=2, max_steps=3)
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 3


def test_a_part_of_an_epoch_more_is_trained(start, tiny_pairs):
    epochs = {"recipe": "contrastive", "max_steps": -1, "save_steps": 1, "lr_scheduler_type": "constant"}
    steps = []
    for num_train_epochs in (0.5, 0.9, 0.9):
        folder = start(tiny_pairs, **epochs, num_train_epochs=num_train_epochs)
        steps.append(json.loads((folder / "trainer_state.json").read_text())["global_step"])
    assert steps == [3, 6, 6]


def test_rows_that_came_or_went_are_noticed(start, tiny_pairs):
    start(tiny_pairs, recipe="contrastive", save_steps=1)
    pq.write_table(pa.table(tiny_rows(20)), tiny_pairs / "train.parquet")
    with pytest.raises(ValueError, match="num_rows was 24, is 20"):
        start(tiny_pairs, recipe="contrastive", max_steps=3)


def test_a_checkpoint_without_optimizer_states_is_not_gone_on_from(start, tiny_pairs, caplog):
    settings = {"recipe": "contrastive", "save_only_model": True, "save_steps": 1}
    start(tiny_pairs, **settings)
    assert "save_only_model: a run cannot be gone on from" in caplog.text
    with pytest.raises(ValueError, match="has no optimizer states: it was saved with save_only_model"):
        start(tiny_pairs, **settings, max_steps=3)


def test_the_log_begins_with_the_global_batch_and_names_a_wait_for_data(start, tiny_pairs, caplog, monkeypatch):
    monkeypatch.setattr("modeling_mofi.training.log.MAX_WAIT_SHARE", 0.0)
    with caplog.at_level(logging.INFO):
        start(tiny_pairs, recipe="contrastive", per_device_train_batch_size=8)
    assert "1 processes x 8 images = global batch of 8" in caplog.text
    assert "of the time is spent waiting for images: raise dataloader_num_workers" in caplog.text


def test_one_process_where_several_were_asked_for_is_said(monkeypatch, caplog):
    words = ["python", "accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"]
    monkeypatch.setattr(run, "parent_command_line", lambda: words)
    run.warn_of_one_process(SimpleNamespace(world_size=2))
    assert not caplog.text
    run.warn_of_one_process(SimpleNamespace(world_size=1))
    assert "accelerate was asked for 2 processes, but with --cpu it starts one" in caplog.text


@pytest.mark.parametrize("recipe", ["supervised", "contrastive", "multi-task"])
def test_each_recipe_trains_what_it_needs(start, tiny_i2e, recipe):
    folder = start(tiny_i2e, recipe=recipe)
    (first, *_) = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert ("contrastive_loss" in first) == (recipe != "supervised")
    assert ("entity_loss" in first) == (recipe != "contrastive")
    assert ("entity_head_megabytes" in first) == (recipe != "contrastive")
    assert (folder / "entity_head.safetensors").is_file() == (recipe != "contrastive")
    assert {"loss", "logit_scale", "images_per_second", "data_wait_share"} <= first.keys()
