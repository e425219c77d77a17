"""SIGTERM and Ctrl-C: every process saves a checkpoint after the step under way, and the next run goes on from it."""

import json
import os
import signal

import pytest
import train_runs
import transformers
from processes import run_processes
from tiny import make_tiny_processor, write_i2e

import train
from modeling_mofi.training import trainer
from modeling_mofi.training.checkpoint import last_complete_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    make_tiny_processor().save_pretrained(folder / "processor")
    data = {"dataset": str(write_i2e(folder / "i2e")), "tokenizer_name": str(folder / "processor")}
    return train_runs.write_recipe(folder, **data, max_steps=5, save_steps=100)


def run(arguments, number):
    """Trains; the last process sends itself a signal within the third step. Returns its exit status."""

    class Sender(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2 and args.process_index == args.world_size - 1:
                os.kill(os.getpid(), number)

    set_up = trainer.MofiTrainer.__init__

    def add_sender(self, *args, **kwargs):
        set_up(self, *args, **kwargs)
        self.add_callback(Sender())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.MofiTrainer, "__init__", add_sender)
        with pytest.raises(SystemExit) as ended:
            train.main(arguments)
    return ended.value.code


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_an_interrupted_run_goes_on_where_it_was(recipe, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    train.main([recipe, f"--output_dir={whole}"])
    assert run([recipe, f"--output_dir={interrupted}"], signal.SIGINT) == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler
    assert last_complete_checkpoint(interrupted).name == "checkpoint-3"
    assert not (interrupted / "train_results.json").exists()  # It would say that the run is done.
    train.main([recipe, f"--output_dir={interrupted}"])
    assert losses(interrupted) == losses(whole)


def test_a_signal_to_one_process_stops_all_after_the_same_step(recipe, tmp_path):
    arguments = [recipe, f"--output_dir={tmp_path}", "--per_device_train_batch_size=2"]
    assert run_processes(run, 2, arguments, signal.SIGTERM) == [128 + signal.SIGTERM] * 2
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-3"
