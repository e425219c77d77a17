"""Whole training runs: resumed to the bit, the same on one and two processes, never a half-written state."""

import pickle
import signal
import sys
from pathlib import Path

import pytest
import torch
import train_runs
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

from modeling_mofi.checkpoint_mofi import last_complete_checkpoint


def start(recipe, output_dir, *flags, processes=1, **settings):
    """Runs the training command in new processes; returns each one's losses and positions, or its exit code."""
    return run_processes(run, processes, [recipe, f"--output_dir={output_dir}", *flags], settings)


def run(arguments, settings):
    return train_runs.run(arguments, **settings)


def assert_same_tensors(folder, other):
    tensors, others = train_runs.saved_tensors(folder), train_runs.saved_tensors(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Twenty steps of four images; an epoch of 24 images has six, so step 10 is in the middle of the second."""
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    dataset = str(write_i2e(folder / "i2e"))
    return train_runs.write_recipe(
        folder, dataset=dataset, tokenizer_name=str(folder / "processor"), max_steps=20, save_steps=5
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Folder of an uninterrupted run, and what it returned."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, start(recipe, folder)[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_killed_twice_is_the_uninterrupted_run_to_the_bit(recipe, whole, tmp_path, num_workers):
    whole_folder, expected = whole
    workers = f"--dataloader_num_workers={num_workers}"
    assert start(recipe, tmp_path, workers, kill_at_step=12) == [-signal.SIGKILL]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"
    assert start(recipe, tmp_path, workers, kill_at_step=16) == [-signal.SIGKILL]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-15"
    (rest,) = start(recipe, tmp_path, workers)
    assert rest["losses"] == expected["losses"]
    assert_same_tensors(tmp_path / "checkpoint-20", whole_folder / "checkpoint-20")
    # Without workers the positions are known here: those after step 15, none twice, none left out.
    seen = len(rest["positions"])
    assert (seen >= 20) == (num_workers == 0)
    assert rest["positions"] == expected["positions"][len(expected["positions"]) - seen :]


def test_every_image_is_seen_once_in_an_epoch(whole):
    epochs = [whole[1]["positions"][24 * epoch :][:24] for epoch in range(3)]
    for epoch, positions in enumerate(epochs):
        assert sorted(positions) == list(range(24 * epoch, 24 * (epoch + 1)))
    assert [position - 24 for position in epochs[1]] != epochs[0]


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_killed_in_mid_epoch_give_the_losses_of_one(recipe, whole, tmp_path, num_processes):
    flags = [f"--per_device_train_batch_size={4 // num_processes}", "--max_steps=20", "--save_steps=8"]
    killed = start(recipe, tmp_path, *flags, processes=num_processes, kill_at_step=9)
    assert all(code < 0 for code in killed)
    results = start(recipe, tmp_path, *flags, processes=num_processes)
    expected = whole[1]
    assert results[0]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    # Step by step the same images, whoever has them.
    by_step = list(zip(*(batches(result["positions"], 4 // num_processes) for result in results), strict=True))
    steps = [sorted(sum(shares, start=[])) for shares in by_step]
    assert steps == [sorted(batch) for batch in batches(expected["positions"], 4)[-len(steps) :]]


def batches(positions, size):
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def watch_checkpoint(arguments):
    """Trains, and notes at each opening of a file of checkpoint-10 which checkpoint counts as complete."""
    output_dir = Path(arguments[1].split("=")[1])
    complete = []

    def note(event, details):
        if event == "open" and "checkpoint-10" in str(details[0]) and "w" in str(details[1]):
            complete.append((Path(str(details[0])).name, last_complete_checkpoint(output_dir).name))

    sys.addaudithook(note)
    train_runs.run(arguments)
    return complete


def test_the_previous_checkpoint_counts_until_the_last_file_of_the_next_is_written(recipe, tmp_path):
    arguments = [recipe, f"--output_dir={tmp_path}", "--max_steps=10"]
    (complete,) = run_processes(watch_checkpoint, 1, arguments)
    assert len(complete) > 5
    assert {name for _, name in complete} == {"checkpoint-5"}
    assert complete[-1][0] == "trainer_state.json"
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "entity_head.safetensors", "optimizer.safetensors"]
)
def test_a_checkpoint_cut_off_while_it_is_written_is_made_again(recipe, whole, tmp_path, file):
    assert start(recipe, tmp_path, kill_at_file=file, kill_at_step=10) == [-signal.SIGKILL]
    assert (tmp_path / "checkpoint-10" / file).is_file()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-5"
    (rest,) = start(recipe, tmp_path)
    assert rest["losses"] == whole[1]["losses"]


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_pickled_and_no_planted_pickle_is_opened(recipe, whole, tmp_path):
    assert start(recipe, tmp_path, kill_at_step=7) == [-signal.SIGKILL]
    checkpoint = tmp_path / "checkpoint-5"
    assert {path.suffix for path in checkpoint.iterdir()} <= {".safetensors", ".json", ".py", ".parquet"}
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "training_args.bin",
        "pytorch_model.bin",
    ):
        (checkpoint / name).write_bytes(pickle.dumps(Exploit(tmp_path / "exploited")))
    (rest,) = start(recipe, tmp_path, "--max_steps=20")
    assert not (tmp_path / "exploited").exists()
    assert rest["losses"] == whole[1]["losses"]


@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_is_not_finite_never_reaches_the_weights(recipe, tmp_path, policy, part):
    flags = [f"--nonfinite_policy={policy}", "--max_steps=4", "--save_steps=1", "--lr_scheduler_type=constant"]
    (result,) = run_processes(run_with_nan, 1, [recipe, f"--output_dir={tmp_path}", *flags], part)
    if policy == "stop":
        assert f"FloatingPointError: The {part} is not finite at step 2." in result
        assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"
        return
    tensors = {step: train_runs.saved_tensors(tmp_path / f"checkpoint-{step}") for step in (2, 3, 4)}
    names = [name for name in tensors[2] if name[0] in ("model.safetensors", "entity_head.safetensors")]
    assert all(torch.equal(tensors[2][name], tensors[3][name]) for name in names)
    assert any(not torch.equal(tensors[3][name], tensors[4][name]) for name in names)
    assert all(tensor.isfinite().all() for tensor in tensors[4].values())


def run_with_nan(arguments, part):
    """Trains with one batch, the third, of which something is not finite."""
    try:
        return train_runs.run(arguments, nan_at_step=2, nan_in=part)
    except FloatingPointError as error:
        return f"FloatingPointError: {error}"


def test_accumulation_says_that_it_adds_no_negatives(recipe, tmp_path, caplog):
    (messages,) = run_processes(
        logged, 1, [recipe, f"--output_dir={tmp_path}", "--gradient_accumulation_steps=2", "--max_steps=2"]
    )
    assert "averages the gradients of 2 batches of 4 images; it adds no negatives" in messages


def logged(arguments):
    """Trains, and returns every message of the package's loggers."""
    import logging

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("modeling_mofi").addHandler(handler)
    train_runs.run(arguments)
    return "\n".join(records)


def test_a_checkpoint_that_is_none_is_refused(recipe, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(AssertionError, match="has no complete trainer_state.json"):
        start(recipe, tmp_path / "run", f"--resume_from_checkpoint={tmp_path / 'checkpoint-5'}")
