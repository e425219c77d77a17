"""Training state on disk."""

import json
import pickle
import random

import numpy as np
import pytest
import torch

from modeling_mofi.entity_head import MofiEntityHead
from modeling_mofi.sharded_rows import load_rows, row_blocks, save_rows
from modeling_mofi.training.checkpoint import (
    last_complete_checkpoint,
    load_optimizer,
    load_state,
    random_states,
    save_optimizer,
    save_state,
    set_random_states,
)
from modeling_mofi.training.optimizer import TowersAndHeadOptimizer


def test_a_state_comes_back_with_its_types(tmp_path):
    state = {0: {"step": torch.tensor(3.0), "name": "a/b"}, "list": [1, 2.5, None, (True, "x")], "empty": {}}
    save_state(tmp_path, "state", state)
    assert load_state(tmp_path, "state") == state


def test_adamw_state_comes_back_to_the_bit(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_state(tmp_path, "optimizer", optimizer.state_dict())
    loaded, expected = load_state(tmp_path, "optimizer"), optimizer.state_dict()
    assert loaded["param_groups"] == expected["param_groups"]
    for name, value in expected["state"][0].items():
        assert torch.equal(loaded["state"][0][name], value)


def test_random_generators_go_on_where_they_were(tmp_path):
    save_state(tmp_path, "rng", random_states())
    expected = random.random(), np.random.random(), torch.rand(1).item()
    set_random_states(load_state(tmp_path, "rng"))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("state_file", [None, "", '{"global_step": 2'])
def test_a_checkpoint_without_its_last_file_is_ignored(tmp_path, state_file):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if state_file is not None:
        (tmp_path / "checkpoint-100" / "trainer_state.json").write_text(state_file)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_folder_without_checkpoints_has_no_last_one(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "missing") is None


def make_head_and_optimizer():
    head, tower = MofiEntityHead(12, 4), torch.nn.Linear(4, 4)
    towers = torch.optim.AdamW(tower.parameters())
    return head, tower, TowersAndHeadOptimizer(towers, torch.optim.SparseAdam(head.parameters(), lr=0.1))


def test_saving_leaves_the_moments_of_the_head_where_they_are(tmp_path):
    head, tower, optimizer = make_head_and_optimizer()
    for _ in range(2):  # The step after the save needs them.
        head(tower(torch.ones(1, 4)), torch.tensor([3])).backward()
        optimizer.step()
        save_optimizer(tmp_path, optimizer, head, is_main=True)
    restored = make_head_and_optimizer()
    load_optimizer(tmp_path, restored[2], restored[0])
    for name in ("exp_avg", "exp_avg_sq"):
        expected = optimizer.parts["head"].state[head.weight][name]
        assert torch.equal(restored[2].parts["head"].state[restored[0].weight][name], expected)


def test_an_optimizer_saved_before_its_first_step_loads(tmp_path):
    head, _, optimizer = make_head_and_optimizer()
    save_optimizer(tmp_path, optimizer, head, is_main=True)
    load_optimizer(tmp_path, optimizer, head)
    assert not optimizer.parts["head"].state


def test_a_pickle_in_place_of_a_state_is_never_opened(tmp_path):
    (tmp_path / "optimizer.json").write_text('{"tensor": "a"}')
    (tmp_path / "optimizer.safetensors").write_bytes(pickle.dumps(Exploit(tmp_path / "exploited")))
    with pytest.raises(Exception, match="(?i)header|safetensor"):
        load_state(tmp_path, "optimizer")
    assert not (tmp_path / "exploited").exists()


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_range_of_rows_is_read_without_the_others(tmp_path):
    rows = torch.arange(40.0).view(20, 2)
    save_rows(tmp_path, {"weight": rows}, name="head", num_rows=20)
    loaded = load_rows(tmp_path, name="head", first_row=5, end_row=12)
    assert torch.equal(loaded["weight"], rows[5:12])
    assert [start for start, _ in row_blocks(tmp_path, name="head", block_size=8)] == [0, 8, 16]


def test_missing_rows_are_named(tmp_path):
    save_rows(tmp_path, {"weight": torch.ones(6, 2)}, name="head", num_rows=6)
    with pytest.raises(ValueError, match="lacks the rows from 6 to 9"):
        load_rows(tmp_path, name="head", first_row=2, end_row=9)
    with pytest.raises(FileNotFoundError, match="has no other.safetensors"):
        load_rows(tmp_path, name="other", first_row=0, end_row=1)


def test_a_save_by_another_number_of_processes_is_replaced(tmp_path):
    (tmp_path / "head-00001-of-00002.safetensors").write_bytes(b"")
    save_rows(tmp_path, {"weight": torch.ones(6, 2)}, name="head", num_rows=6)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
