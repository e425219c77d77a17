"""Private names of other libraries: those that have no public counterpart, each with a check that it is there."""

import ast
from pathlib import Path

import datasets
import pytest
import torch
from transformers import PreTrainedModel, ProcessorMixin

from modeling_mofi.data.dataset_fingerprint import dataset_fingerprint
from modeling_mofi.training.trainer_hooks import HOOKS, check_hooks


ROOT = Path(__file__).parents[1]
PARTS = ("modeling_mofi", "data_scripts", "evaluation", "metrics", "demo", "benchmarks")
# By file: what it takes, and why there is nothing public in its place.
PRIVATE = {
    # transformers asks models to say these things by such names; `check_hooks` looks for the Trainer's.
    "modeling_mofi/pretrained_mofi.py": {"_init_weights"},
    "modeling_mofi/processing_mofi.py": {"_load_tokenizer_from_pretrained"},
    "modeling_mofi/pretraining.py": {"_init_weights", "_is_hf_initialized"},
    "modeling_mofi/training/resumable_trainer.py": set(HOOKS),
    "modeling_mofi/training/trainer.py": set(HOOKS),
    # `torch.compiler.config`, its public name, came after the oldest torch that setup.py allows.
    "modeling_mofi/training/model_preparation.py": {"_dynamo"},
    # Documented by `datasets` under this name.
    "modeling_mofi/data/dataset_fingerprint.py": {"_fingerprint"},
    # Of a parent class of ours.
    "modeling_mofi/data/streamed_rows.py": {"_forget"},
    "data_scripts/report/card.py": {"_to_yaml_list"},
    # A copy of a named tuple; its underscore keeps it from being a field.
    "data_scripts/sources/separated.py": {"_replace"},
}


def private_names(path):
    """Names with one underscore that a file takes from anything but itself, and that none of its classes has."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_super = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            if not is_own and (is_super or node.attr not in own):
                yield node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (part for name in names for part in name.split(".") if is_private(part))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and is_private(arg.value))


def is_private(name):
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and len(name) > 1


@pytest.mark.parametrize("part", PARTS)
def test_private_names_of_others_are_only_those_that_are_listed(part):
    for path in sorted((ROOT / part).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        unknown = set(private_names(path)) - PRIVATE.get(name, set())
        assert not unknown, f"{name} takes {', '.join(sorted(unknown))}"


def test_the_private_names_are_there():
    check_hooks()
    assert callable(PreTrainedModel._init_weights) and callable(ProcessorMixin._load_tokenizer_from_pretrained)
    assert isinstance(torch._dynamo.config.cache_size_limit, int)


def test_a_dataset_says_which_rows_it_holds():
    rows = datasets.Dataset.from_dict({"number": [1, 2, 3]})
    assert dataset_fingerprint(rows) == dataset_fingerprint(rows) != dataset_fingerprint(rows.select([0, 1]))
    with pytest.raises(ImportError, match="does not say by a fingerprint which rows"):
        dataset_fingerprint(object())
