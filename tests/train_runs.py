"""Runs of the training command on tiny data, which may be killed or given bad batches, for the tests."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file

import train
from modeling_mofi import trainer_mofi, training_data_mofi


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RECIPE = {
    "vision_config": {**TOWER, "image_size": 16, "patch_size": 8},
    "text_config": TOWER,
    "projection_dim": 16,
    "attn_implementation": "eager",
    "image_processor": {"size": {"height": 16, "width": 16}, "do_center_crop": False, "antialias": True},
    "augmentation": {"min_crop_area": 0.5, "flip_probability": 0.5, "color_jitter": 0.3, "erase_probability": 0.3},
    "num_sampled_entities": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "entity_scale": 8,
    "use_cpu": True,
    "logging_steps": 1,
    "save_steps": 10,
    "report_to": "none",
    "disable_tqdm": True,
    "log_level": "error",
}


def write_recipe(folder: Path, **changes: Any) -> str:
    """Writes the tiny recipe, with changes, as a file (JSON is YAML)."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**RECIPE, **changes}), encoding="utf-8")
    return str(path)


def run(
    arguments: list[str],
    *,
    kill_at_step: int | None = None,
    kill_at_file: str | None = None,
    nan_at_step: int | None = None,
    nan_in: str = "loss",
) -> dict[str, Any]:
    """Runs train.py here; returns the losses by step and the positions that were collated in this process.

    Args:
        kill_at_step: Sends SIGKILL to this process once that many steps are done and saved.
        kill_at_file: Does so as soon as a file of this name is there in the checkpoint after that step, instead.
        nan_at_step: Makes something of the batch after that many steps not finite.
        nan_in: The pixels and with them the "loss", or the "gradient" of one weight alone.
    """
    positions: list[int] = []
    collate = training_data_mofi.MofiDataCollator.__call__

    def note_positions(collator: Any, rows: list[dict[str, Any]]) -> Any:
        positions.extend(row["position"] for row in rows)
        return collate(collator, rows)

    training_data_mofi.MofiDataCollator.__call__ = note_positions
    if kill_at_file is not None:
        kill_on_file(f"checkpoint-{kill_at_step}", kill_at_file)
    elif kill_at_step is not None:
        kill_after(kill_at_step)
    if nan_at_step is not None:
        spoil_batch(nan_at_step, nan_in)
    train.main(arguments)
    output_dir = Path(next(flag.split("=")[1] for flag in arguments if flag.startswith("--output_dir=")))
    if os.environ.get("RANK", "0") != "0":
        return {"positions": positions}  # The main process writes the log.
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    return {"losses": losses, "positions": positions}


def kill_after(num_steps: int) -> None:
    class Killer(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == num_steps:
                os.kill(os.getpid(), signal.SIGKILL)

    set_up = trainer_mofi.MofiTrainer.__init__

    def add_killer(trainer: Any, *args: Any, **kwargs: Any) -> None:
        set_up(trainer, *args, **kwargs)
        trainer.add_callback(Killer())

    trainer_mofi.MofiTrainer.__init__ = add_killer


def kill_on_file(folder: str, name: str) -> None:
    def kill(event: str, details: tuple[Any, ...]) -> None:
        # At whatever file is opened next.
        if event == "open" and folder in str(details[0]) and (Path(str(details[0])).parent / name).exists():
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)


def spoil_batch(step: int, part: str) -> None:
    compute_loss = trainer_mofi.MofiTrainer.compute_loss

    def compute(trainer: Any, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        if trainer.state.global_step == step and part == "loss":
            inputs["pixel_values"] = inputs["pixel_values"] * float("nan")
        elif trainer.state.global_step == step:
            weight = trainer.pretraining_model.mofi.visual_projection.weight
            hook = weight.register_hook(lambda gradient: [gradient * float("nan"), hook.remove()][0])
        return compute_loss(trainer, model, inputs, **kwargs)

    trainer_mofi.MofiTrainer.compute_loss = compute


def saved_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor in a folder's safetensors files, by file and name."""
    files = folder.glob("*.safetensors")
    return {(path.name, key): tensor for path in files for key, tensor in load_file(path).items()}
