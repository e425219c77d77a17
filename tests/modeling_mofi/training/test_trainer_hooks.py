"""What MOFI's trainers replace of transformers' is there, and is asked for."""

import pytest
from transformers import Trainer

from modeling_mofi.training.resumable_trainer import ResumableTrainer
from modeling_mofi.training.trainer import MofiTrainer
from modeling_mofi.training.trainer_hooks import HOOKS, check_hooks


def test_every_private_method_that_is_replaced_is_asked_for():
    replaced = {name for kind in (ResumableTrainer, MofiTrainer) for name in vars(kind) if name.startswith("_")}
    inherited = {name for name in replaced if hasattr(Trainer, name) and not name.startswith("__")}
    assert inherited == set(HOOKS)
    check_hooks()


def test_a_renamed_method_is_an_error_that_names_it(monkeypatch):
    monkeypatch.delattr(Trainer, "_save_rng_state")
    with pytest.raises(ImportError, match=r"has no Trainer\._save_rng_state, which MOFI's training replaces"):
        ResumableTrainer(None)
