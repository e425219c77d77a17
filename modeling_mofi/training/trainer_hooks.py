"""The methods of transformers' Trainer that MOFI's trainers replace, asked for by name."""

import transformers
from transformers import Trainer


# Private ones may be renamed by any release. The renamed method would then run in place of ours: checkpoints would
# hold pickles again, and a resumed run would not be the same to the bit.
HOOKS = (
    "_clip_grad_norm",
    "_get_grad_norm",
    "_get_train_sampler",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
    "_load_scaler",
    "_prepare_for_training",
    "_prepare_inputs",
    "_push_from_checkpoint",
    "_run_epoch",
    "_save",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_save_rng_state",
    "_save_scaler",
)


def check_hooks(base: type = Trainer) -> None:
    """Refuses a Trainer that lacks a method which ours replace.

    Raises:
        ImportError: With the methods and the version of transformers.
    """
    if missing := [name for name in HOOKS if not callable(getattr(base, name, None))]:
        raise ImportError(
            f"transformers {transformers.__version__} has no Trainer.{', Trainer.'.join(missing)}, which MOFI's "
            "training replaces. Install a version that mofi's setup.py allows, or report that this one is not known."
        )
