"""SIGTERM and Ctrl-C: every process saves a checkpoint after the step under way, and the next run goes on from it."""

import os
import signal

import pytest
import train_runs
import transformers
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

from modeling_mofi.training import trainer
from modeling_mofi.training.checkpoint import last_complete_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    data = {"dataset": str(write_i2e(folder / "i2e")), "tokenizer_name": str(folder / "processor")}
    return train_runs.write_recipe(folder, **data, max_steps=5, save_steps=100)


def run(arguments, number):
    """Trains; the last process sends itself a signal within the third step. Returns the losses or the exit status."""

    class Sender(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2 and args.process_index == args.world_size - 1:
                os.kill(os.getpid(), number)

    set_up = trainer.MofiTrainer.__init__

    def add_sender(self, *args, **kwargs):
        set_up(self, *args, **kwargs)
        self.add_callback(Sender())

    if number is not None:
        trainer.MofiTrainer.__init__ = add_sender
    try:
        return train_runs.run(arguments).get("losses")
    except SystemExit as error:
        return error.code


def test_a_signal_to_one_process_saves_on_all(recipe, tmp_path):
    flags = [recipe, "--per_device_train_batch_size=2"]
    expected, *_ = run_processes(run, 2, [*flags, f"--output_dir={tmp_path / 'whole'}"], None)
    arguments = [*flags, f"--output_dir={tmp_path / 'run'}"]
    assert run_processes(run, 2, arguments, signal.SIGTERM)[-1] == 128 + signal.SIGTERM
    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert not (tmp_path / "run" / "train_results.json").exists()  # It would say that the run is done.
    assert run_processes(run, 2, arguments, None)[0] == expected
