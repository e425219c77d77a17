"""Values that are not finite, on one process or on one of two: every process stops or skips, and nothing is spoilt."""

import json

import pytest
import torch
import train_runs
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

from modeling_mofi.training.checkpoint import last_complete_checkpoint


# What is not finite, and where the trainer finds it first.
PARTS = {"pixels": "loss", "loss": "loss", "gradient": "gradient", "head gradient": "gradient"}
STATES = {"model", "trained_towers", "entity_head", "entity_head_optimizer", "optimizer"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Four steps with an average of the weights; the third has something that is not finite."""
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    data = {"dataset": str(write_i2e(folder / "i2e")), "tokenizer_name": str(folder / "processor")}
    settings = {"max_steps": 4, "save_steps": 1, "lr_scheduler_type": "constant", "ema_decay": 0.7}
    return train_runs.write_recipe(folder, **data, **settings)


@pytest.fixture
def start(recipe, tmp_path):
    """Runs the recipe with flags in new processes; returns what each of them returned, or the error it ended with."""

    def start(policy, part, *flags, processes=1):
        flags = [f"--nonfinite_policy={policy}", f"--per_device_train_batch_size={4 // processes}", *flags]
        return run_processes(run, processes, [recipe, f"--output_dir={tmp_path}", *flags], part)

    return start


def run(arguments, part):
    try:
        return train_runs.run(arguments, nan_at_step=2, nan_in=part)
    except FloatingPointError as error:
        return f"FloatingPointError: {error}"


def state_after(step, folder):
    """Every tensor of the trainer but those of random generators, and the rest of the optimizer's state."""
    folder = folder / f"checkpoint-{step}"
    tensors = train_runs.saved_tensors(folder)
    tensors = {name: tensor for name, tensor in tensors.items() if not name[0].startswith("rng_state")}
    return tensors, json.loads((folder / "optimizer.json").read_text())


def changed_states(before, after):
    """Names of files, whatever number of processes wrote them, with a tensor that differs."""
    return {
        name[0].split(".")[0].split("-0")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])
    }


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_skipped_step_changes_nothing_and_the_next_one_goes_on(start, tmp_path, processes, part):
    start("skip", part, processes=processes)
    assert_third_step_is_skipped(tmp_path)


@pytest.mark.parametrize("flag", ["--gradient_cache_size=2", "--gradient_accumulation_steps=2", "--max_grad_norm=0"])
def test_a_step_in_parts_is_skipped_as_a_whole(start, tmp_path, flag):
    start("skip", "pixels", flag)
    assert_third_step_is_skipped(tmp_path)


def assert_third_step_is_skipped(folder):
    (before, rest), (skipped, skipped_rest), (after, _) = (state_after(step, folder) for step in (2, 3, 4))
    assert before.keys() == skipped.keys() == after.keys()
    assert changed_states(before, skipped) == set()
    assert skipped_rest == rest
    assert changed_states(skipped, after) == STATES
    assert all(tensor.isfinite().all() for tensor in after.values())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_stops_on_every_process_after_the_last_good_checkpoint(start, tmp_path, processes, part):
    for result in start("stop", part, processes=processes):
        assert result.startswith(f"FloatingPointError: The {PARTS[part]} is not finite at step 2.")
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"
