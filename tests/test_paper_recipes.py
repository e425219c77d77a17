"""The recipes of the released sizes."""

import pytest
import torch
import yaml

from modeling_mofi import MofiConfig, MofiModel
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.training.arguments import MofiTrainingArguments
from modeling_mofi.training.model_building import ModelArguments
from modeling_mofi.training.run import DataArguments


# Millions of parameters, projections left out, as the release's README states them.
RELEASED = {"b16": (86, 64), "l14": (303, 124), "h14": (631, 354)}


@pytest.mark.parametrize("size", RELEASED)
def test_towers_have_the_released_parameter_counts(size):
    with open(f"configs/train_{size}.yaml", encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    config = MofiConfig(**{name: recipe[name] for name in ("vision_config", "text_config", "projection_dim")})
    with torch.device("meta"):
        model = MofiModel(config)
    towers = model.vision_model, model.text_model
    counts = [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers]
    assert tuple(round(count / 1e6) for count in counts) == RELEASED[size]


@pytest.mark.parametrize("size", RELEASED)
def test_recipes_have_no_unknown_key_and_no_wrong_value(size, tmp_path):
    flags = [f"--output_dir={tmp_path}", "--bf16=false", "--tf32=false", "--use_cpu=true"]  # As on this machine.
    types = ModelArguments, DataArguments, MofiTrainingArguments
    model_args, _, args = parse_recipe(types, [f"configs/train_{size}.yaml", *flags])
    assert args.recipe == "multi-task"
    assert args.tower_compilation is not None
    assert model_args.text_config["max_position_embeddings"] == 77
