"""MOFI for Hugging Face: image representations learned from noisy entity-annotated images.

Importing the package registers MOFI with transformers' Auto classes. Training is in `modeling_mofi.training.trainer`,
which needs the extra `train`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"  # Here alone; setup.py reads it.

# Workers of a data build that read texts need neither torch nor transformers, whose import takes seconds. In a process
# that began with `data_scripts`, the classes are imported and registered when the first of them is asked for.
if TYPE_CHECKING or "data_scripts" not in sys.modules:
    from .auto import *  # noqa: F403
    from .auto import __all__ as __all__


def __getattr__(name: str) -> Any:
    """A public class that is asked for first in a data build."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".auto", __name__), name)
