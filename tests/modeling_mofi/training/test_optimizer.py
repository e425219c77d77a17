"""Two optimizers as one."""

import re
from copy import deepcopy

import pytest
import torch
from tiny import make_tiny_config
from tiny_towers import IMAGE_TOWERS
from torch import nn

from modeling_mofi import MofiConfig, MofiModel
from modeling_mofi.training.optimizer import TowersAndHeadOptimizer, lower_rates_by_layer, parameters_with_depth


def make_optimizer():
    torch.manual_seed(0)
    tower, rows = nn.Linear(2, 2), nn.Parameter(torch.ones(5, 2))
    parts = torch.optim.AdamW(tower.parameters(), lr=0.1), torch.optim.SparseAdam([rows], lr=0.2)
    return tower, rows, TowersAndHeadOptimizer(*parts)


def step(tower, rows, optimizer):
    values = tower(nn.functional.embedding(torch.tensor([1, 3]), rows, sparse=True))
    values.square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_schedule_reaches_both_parts():
    tower, rows, optimizer = make_optimizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    step(tower, rows, optimizer)
    schedule.step()
    assert [group["lr"] for part in optimizer.parts.values() for group in part.param_groups] == [0.05, 0.1]


def test_a_restored_optimizer_goes_on_to_the_bit():
    tower, rows, optimizer = make_optimizer()
    step(tower, rows, optimizer)
    other_tower, other_rows, other = make_optimizer()
    other_tower.load_state_dict(tower.state_dict())
    other_rows.data.copy_(rows.data)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for group in other.param_groups:
        group["lr"] = 0.01  # Set after loading, as a schedule does; it must reach the parts.
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    step(tower, rows, optimizer)
    step(other_tower, other_rows, other)
    assert torch.equal(rows, other_rows)
    assert torch.equal(tower.weight, other_tower.weight)


def test_rows_without_gradient_stay():
    tower, rows, optimizer = make_optimizer()
    before = rows.detach().clone()
    step(tower, rows, optimizer)
    assert torch.equal(rows[[0, 2, 4]], before[[0, 2, 4]])
    assert not torch.equal(rows[[1, 3]], before[[1, 3]])


def test_rates_fall_by_layer_from_the_top_of_each_tower():
    config = make_tiny_config()
    config.vision_config.num_hidden_layers = 3
    mofi = MofiModel(config)
    optimizer = torch.optim.AdamW([{"params": list(mofi.parameters()), "weight_decay": 0.5}], lr=1.0)
    lower_rates_by_layer(optimizer, mofi, decay=0.5)
    names = {id(parameter): name for name, parameter in mofi.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(names.values())
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5}
    layers = [rates[f"vision_model.encoder.layers.{layer}.mlp.fc1.weight"] for layer in range(3)]
    assert layers == [0.125, 0.25, 0.5]
    assert rates["vision_model.embeddings.patch_embedding.weight"] == rates["vision_model.pre_layrnorm.bias"] == 0.0625
    assert rates["vision_model.post_layernorm.weight"] == rates["visual_projection.weight"] == 1.0
    assert rates["text_model.encoder.layers.0.mlp.fc1.weight"] == 0.5
    assert rates["text_model.embeddings.token_embedding.weight"] == 0.25
    assert optimizer.param_groups[0]["lr"] == 1.0  # The rate that the log shows.


@pytest.mark.parametrize(("kind", "layer"), [("dinov3_vit", "model.layer.1"), ("convnextv2", "encoder.stages.3")])
def test_rates_fall_by_layer_or_stage_in_any_tower(kind, layer):
    fields, _ = IMAGE_TOWERS[kind]
    config = MofiConfig(vision_config={"model_type": kind, **fields}, text_config=make_tiny_config().text_config)
    mofi = MofiModel(config)
    found = dict(zip(dict(mofi.named_parameters()), (depth for _, depth in parameters_with_depth(mofi)), strict=True))
    last = {depth for name, depth in found.items() if name.startswith(f"vision_model.{layer}.")}
    first = {depth for name, depth in found.items() if re.search(r"^vision_model\.\w+\.(layer|stages)\.0\.", name)}
    below = {depth for name, depth in found.items() if name.startswith("vision_model.embeddings")}
    num_layers = int(layer[-1]) + 1
    assert (last, first, below) == ({1}, {num_layers}, {num_layers + 1})
