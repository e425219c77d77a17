"""Training state on disk: safetensors and JSON only, so that resuming never unpickles anything."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..entity_head import MofiEntityHead
from ..modeling_mofi import MofiModel
from ..sharded_rows import load_rows, save_rows
from ..whole_files import try_read_json, write_text, write_whole


HEAD_OPTIMIZER_NAME = "entity_head_optimizer"
MOMENTS = ("exp_avg", "exp_avg_sq")
TRAINED_TOWERS_NAME = "trained_towers"  # Where the model's file holds an average of them, or merged adapters.
STATE_NAME = "trainer_state.json"  # Written last: a checkpoint without a valid one was interrupted.


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Finds the newest checkpoint whose writing was finished, or None."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if try_read_json(folder / STATE_NAME) is not None:
            return folder
    return None


def save_state(folder: str | Path, name: str, state: Any) -> None:
    """Writes nested dicts and lists to `name.json`, their tensors to `name.safetensors`."""
    tensors: dict[str, torch.Tensor] = {}
    structure = _take_tensors(state, tensors, "")
    with write_whole(Path(folder) / f"{name}.safetensors") as temporary:
        save_file(tensors, temporary)
    write_text(Path(folder) / f"{name}.json", json.dumps(structure))


def load_state(folder: str | Path, name: str) -> Any:
    """Reads what `save_state` wrote.

    Raises:
        FileNotFoundError: If one of the two files is missing.
    """
    tensors = load_file(Path(folder) / f"{name}.safetensors")
    structure = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
    return _put_tensors(structure, tensors)


def _take_tensors(state: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    if isinstance(state, torch.Tensor):
        tensors[path] = state.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(state, dict):
        # Pairs, since keys of optimizer states are integers and JSON would make strings of them.
        items = [[key, _take_tensors(value, tensors, f"{path}/{key}")] for key, value in state.items()]
        return {"items": items}
    if isinstance(state, (list, tuple)):
        values = [_take_tensors(value, tensors, f"{path}/{index}") for index, value in enumerate(state)]
        return {"tuple" if isinstance(state, tuple) else "list": values}
    return {"value": state}


def _put_tensors(structure: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _put_tensors(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        values = [_put_tensors(value, tensors) for value in content]
        return tuple(values) if kind == "tuple" else values
    return content


def save_optimizer(
    folder: str | Path, optimizer: torch.optim.Optimizer, head: MofiEntityHead | None, *, is_main: bool
) -> None:
    """Writes the towers' part from the main process, and from every process the moments of its rows of the head."""
    state = optimizer.state_dict()
    if head is not None and "head" in state:
        # A copy: what torch calls a state dict holds the live dictionaries of each parameter.
        moments = dict(state["head"]["state"].get(0, {}))
        rows = {name: moments.pop(name) for name in MOMENTS if name in moments}
        save_rows(folder, rows, name=HEAD_OPTIMIZER_NAME, num_rows=head.num_entities)
        state["head"]["state"] = {0: moments} if moments else {}
    state = full_tensors(state)
    if is_main:
        save_state(folder, "optimizer", state)


def load_optimizer(folder: str | Path, optimizer: torch.optim.Optimizer, head: MofiEntityHead | None) -> None:
    """Restores what `save_optimizer` wrote, on any number of processes and with towers sharded or not."""
    state = load_state(folder, "optimizer")
    if head is not None and state.get("head", {}).get("state"):
        rows = load_rows(folder, name=HEAD_OPTIMIZER_NAME, first_row=head.first_row, end_row=head.end_row)
        state["head"]["state"][0].update(rows)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    towers = state.get("towers", state)["state"]
    for place, values in towers.items():
        for name, value in values.items():
            values[name] = sharded_like(value, parameters[place])
    optimizer.load_state_dict(state)


def load_towers(folder: str | Path, mofi: MofiModel) -> None:
    """Copies the towers as they were trained into a model whose parameters may be sharded."""
    is_apart = (Path(folder) / f"{TRAINED_TOWERS_NAME}.json").is_file()
    loaded = load_state(folder, TRAINED_TOWERS_NAME) if is_apart else MofiModel.from_pretrained(folder).state_dict()
    with torch.no_grad():
        for name, own in mofi.state_dict().items():
            own.copy_(sharded_like(loaded[name], own))


def full_tensors(state: Any) -> Any:
    """Gathers the sharded tensors in nested dicts and lists; every process must call this."""
    if isinstance(state, dict):
        return {key: full_tensors(value) for key, value in state.items()}
    if isinstance(state, list):
        return [full_tensors(value) for value in state]
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def sharded_like(value: Any, like: torch.Tensor) -> Any:
    """Shards a tensor as another of its shape is, if that one is."""
    if not hasattr(like, "placements") or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def random_states() -> dict[str, Any]:
    """Takes the state of every global random number generator."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restores what `random_states` took."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
