"""The average of the towers' weights: its values, its place in checkpoints, and runs that go on with it."""

from types import SimpleNamespace

import pytest
import torch
import train_runs
from processes import run_processes
from tiny import make_tiny_config, write_training_data

from modeling_mofi import MofiForPreTraining
from modeling_mofi.training.weight_average import WeightAverage


DECAY = 0.5


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MofiForPreTraining(make_tiny_config())
    model.mofi.text_model.requires_grad_(False)
    return model


def move(model, average, step):
    """One step of an optimizer that adds 1 to every trained weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += parameter.requires_grad
    average.on_optimizer_step(None, SimpleNamespace(global_step=step), None)


def test_an_average_forgets_the_first_weights_soon_and_then_by_its_decay(model):
    average = WeightAverage(DECAY)
    average.start(model)
    first = model.mofi.logit_scale.item()
    found = []
    for step in (0, 1, 20):
        move(model, average, step)
        with average.in_place_of_weights():
            found.append(model.mofi.logit_scale.item() - first)
    expected = [0.9, 0.9 * 2 / 11 + 2 * 9 / 11, (0.9 * 2 / 11 + 2 * 9 / 11) * 0.5 + 3 * 0.5]
    assert found == pytest.approx(expected, rel=1e-5)


def test_weights_come_back_after_the_average_stood_in_for_them(model):
    average = WeightAverage(DECAY)
    average.start(model)
    move(model, average, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="fails"), average.in_place_of_weights():
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        raise RuntimeError("fails")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    trained = {name for name, tensor in model.mofi.named_parameters() if tensor.requires_grad}
    assert changed == {f"mofi.{name}" for name in trained}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_training_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def start(data, tmp_path):
    """Runs six steps with an average in new processes; returns the folder and the losses by step."""

    def start(name, *, processes=1, kill_at_step=None, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = {"dataset": str(data / "i2e"), "tokenizer_name": str(data / "processor"), "max_steps": 6}
        recipe = train_runs.write_recipe(folder, **{**settings, "save_steps": 2, "ema_decay": 0.7, **changes})
        (result, *_) = run_processes(run, processes, [recipe, f"--output_dir={folder}"], kill_at_step)
        return folder, result if kill_at_step else result["losses"]

    return start


def run(arguments, kill_at_step):
    return train_runs.run(arguments, kill_at_step=kill_at_step)


def tensors_of(folder, file):
    return {name: tensor for (found, name), tensor in train_runs.saved_tensors(folder).items() if found == file}


SHARDED = {"processes": 2, "per_device_train_batch_size": 2, "fsdp": "full_shard", "fsdp_config": {"version": 2}}


@pytest.mark.parametrize("processes", [{}, SHARDED], ids=["one", "two-sharded"])
def test_checkpoints_hold_the_average_of_the_weights_that_were_trained(start, data, processes):
    evaluated = {"eval_dataset": str(data / "labeled.parquet"), "eval_strategy": "steps", "eval_steps": 2}
    folder, losses = start("averaged", save_steps=1, **evaluated, **processes)
    _, plain = start("plain", ema_decay=None)
    assert losses == pytest.approx(plain, rel=1e-5)  # Neither evaluating nor saving leaves the average in their place.
    trained = [tensors_of(folder / f"checkpoint-{step}", "trained_towers.safetensors") for step in range(1, 7)]
    saved = [tensors_of(folder / f"checkpoint-{step}", "model.safetensors") for step in range(1, 7)]
    for step in range(1, 6):
        decay = min(0.7, (1 + step) / (10 + step))
        for name, average in saved[step].items():
            expected = decay * saved[step - 1][name] + (1 - decay) * trained[step][f"/{name}"]
            torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
    final = tensors_of(folder, "model.safetensors")
    assert all(torch.equal(final[name], average) for name, average in saved[-1].items())
    assert not (folder / "trained_towers.safetensors").exists()


def test_a_killed_run_goes_on_with_its_average_to_the_bit(start):
    whole, losses = start("whole")
    assert start("killed", kill_at_step=5)[1] < 0
    killed, rest = start("killed")
    assert rest == losses
    found, expected = (train_runs.saved_tensors(folder / "checkpoint-6") for folder in (killed, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
