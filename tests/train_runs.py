"""Runs of the training command on tiny data, which may be killed or given bad batches, for the tests."""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import transformers
from accelerate.state import AcceleratorState, DistributedType
from safetensors.torch import load_file

import train
from modeling_mofi.data import collator
from modeling_mofi.training import trainer


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
    cut_file: tuple[str, int] | None = None,
    nan_at_step: int | None = None,
    nan_in: str = "pixels",
) -> dict[str, Any]:
    """Runs train.py here; returns the losses by step and the positions that were collated in this process.

    Args:
        kill_at_step: Sends SIGKILL to this process once that many steps are done and saved.
        cut_file: Path and size: has the system end this process where it writes more than that to that file.
        nan_at_step: Makes something not finite after that many steps, on the last process alone.
        nan_in: What: "pixels", "loss" (the entity loss), "gradient" (of one weight) or "head gradient".
    """
    positions: list[int] = []
    collate = collator.MofiDataCollator.__call__

    def note_positions(collator: Any, rows: list[dict[str, Any]]) -> Any:
        positions.extend(row["position"] for row in rows)
        return collate(collator, rows)

    collator.MofiDataCollator.__call__ = note_positions
    if kill_at_step is not None:
        kill_after(kill_at_step)
    if cut_file is not None:
        cut(*cut_file)
    if nan_at_step is not None:
        spoil(nan_at_step, nan_in)
    shard_on_cpus()
    train.main(arguments)
    output_dir = Path(next(flag.split("=")[1] for flag in arguments if flag.startswith("--output_dir=")))
    if os.environ.get("RANK", "0") != "0":
        return {"positions": positions}  # The main process writes the log.
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    return {"losses": losses, "positions": positions}


def shard_on_cpus() -> None:
    """Lets FSDP shard on several CPUs too, where accelerate would silently do without it."""
    set_up = AcceleratorState.__init__

    def set_up_sharded(state: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        set_up(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and state.num_processes > 1:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            if state.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(state.mixed_precision)

    AcceleratorState.__init__ = set_up_sharded
    prepare = trainer.MofiTrainer._prepare_for_training

    def check_sharded(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = prepare(trainer, *args, **kwargs)
        parameters = trainer.pretraining_model.mofi.named_parameters()
        whole = [name for name, parameter in parameters if not hasattr(parameter, "placements")]
        assert not trainer.args.fsdp or whole == ["logit_scale"]
        return prepared

    trainer.MofiTrainer._prepare_for_training = check_sharded


def kill_after(num_steps: int) -> None:
    class Killer(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == num_steps:
                os.kill(os.getpid(), signal.SIGKILL)

    set_up = trainer.MofiTrainer.__init__

    def add_killer(trainer: Any, *args: Any, **kwargs: Any) -> None:
        set_up(trainer, *args, **kwargs)
        trainer.add_callback(Killer())

    trainer.MofiTrainer.__init__ = add_killer


def cut(path: str, size: int) -> None:
    def limit(event: str, details: tuple[Any, ...]) -> None:
        # A file that is written whole has another name meanwhile, which begins with its own.
        if event == "open" and str(details[0]).partition(".tmp.")[0] == path and "w" in str(details[1]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and would raise an error instead.
    announce_tensor_files()
    sys.addaudithook(limit)


def announce_tensor_files() -> None:
    """Raises Python's audit event for the files that safetensors opens without Python."""
    serialize = safetensors.torch.serialize_file

    def announce(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        sys.audit("open", str(path), "w", 0)
        serialize(tensors, path, *args, **kwargs)

    safetensors.torch.serialize_file = announce


def spoil(step: int, part: str) -> None:
    set_up = trainer.MofiTrainer.__init__

    def add_hooks(trainer: Any, model: Any, **kwargs: Any) -> None:
        def spoilt(values: Any) -> Any:
            is_last = trainer.args.process_index == trainer.args.world_size - 1
            return values * float("nan") if is_last and trainer.state.global_step == step else values

        set_up(trainer, model, **kwargs)
        model = trainer.pretraining_model
        if part == "pixels":
            model.register_forward_pre_hook(
                lambda _, args, inputs: (args, {**inputs, "pixel_values": spoilt(inputs["pixel_values"])}),
                with_kwargs=True,
            )
        elif part == "loss":
            model.entity_head.register_forward_hook(lambda _, args, loss: spoilt(loss))
        else:
            weight = model.entity_head.weight if part == "head gradient" else model.mofi.visual_projection.weight
            weight.register_hook(spoilt)

    trainer.MofiTrainer.__init__ = add_hooks


def saved_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor in a folder's safetensors files, by file and name."""
    files = folder.glob("*.safetensors")
    return {(path.name, key): tensor for path in files for key, tensor in load_file(path).items()}
