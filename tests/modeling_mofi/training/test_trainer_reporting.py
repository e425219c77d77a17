"""The training log in TensorBoard, trackio and wandb, all of them without a network."""

import json
import os
import sqlite3
import struct

import pytest
import train_runs
from processes import run_processes
from tiny import write_training_data


NAMES = ("loss", "contrastive_loss", "entity_loss", "logit_scale", "images_per_second", "data_wait_share")
WANDB_HEADER_BYTES, WANDB_BLOCK_BYTES = 7, 32_768
WANDB_LAST_PARTS = (1, 4)  # A record in one piece, and the last piece of one.


@pytest.fixture
def report(tmp_path):
    """Runs two steps that report to a tracker in a folder of its own; returns the folder and the trainer's own log."""

    def report(tracker):
        write_training_data(tmp_path)
        settings = {"dataset": str(tmp_path / "i2e"), "tokenizer_name": str(tmp_path / "processor"), "max_steps": 2}
        settings |= {"report_to": tracker, "image_size_schedule": {0: 8, 0.5: 16}}
        recipe = train_runs.write_recipe(tmp_path, **settings)
        run_processes(run, 1, [recipe, f"--output_dir={tmp_path}"], tracker, str(tmp_path))
        history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
        return tmp_path, {entry["step"]: entry for entry in history if "loss" in entry}

    return report


def run(arguments, tracker, folder):
    os.environ |= {"TRACKIO_DIR": folder, "WANDB_DIR": folder, "WANDB_MODE": "offline"}
    train_runs.run(arguments)
    if tracker == "wandb":
        import wandb

        wandb.teardown()  # Its process outlives a run until Python ends, which does not tell it here.


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_every_line_of_the_log_arrives(report, tracker):
    pytest.importorskip(tracker)
    folder, history = report(tracker)
    lines = READERS[tracker](folder)
    assert sorted(history) == [1, 2]
    for step, entry in history.items():
        line = {name: lines[step][f"train/{name}"] for name in NAMES}
        assert line == pytest.approx({name: entry[name] for name in NAMES}, rel=1e-6)


def read_tensorboard(folder):
    """Values by name, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path)).Reload()
    names = events.Tags()["scalars"]
    return by_step(
        {"train/global_step": event.step, name: event.value} for name in names for event in events.Scalars(name)
    )


def by_step(lines):
    """Joins the values of each step, those of the run's summary among those of the last one."""
    steps = {}
    for line in filter(None, lines):
        steps.setdefault(line["train/global_step"], {}).update(line)
    return steps


def read_trackio(folder):
    """Values by name, by step."""
    with sqlite3.connect(folder / "huggingface.db") as database:
        lines = [json.loads(metrics) for (metrics,) in database.execute("SELECT metrics FROM metrics")]
    return by_step(lines)


def read_wandb(folder):
    """Values by name, by step."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    items = [Record.FromString(record).history.item for record in wandb_records(path.read_bytes())]
    lines = [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in line} for line in items]
    return by_step(lines)


def wandb_records(data):
    """Yields what is logged in a file of wandb's, a log as LevelDB writes it."""
    place, record = WANDB_HEADER_BYTES, b""
    while place < len(data):
        left = WANDB_BLOCK_BYTES - place % WANDB_BLOCK_BYTES
        if left < WANDB_HEADER_BYTES:  # Filled up with zeros.
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        place += WANDB_HEADER_BYTES + size
        record += data[place - size : place]
        if kind in WANDB_LAST_PARTS:
            yield record
            record = b""


READERS = {"tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb}
