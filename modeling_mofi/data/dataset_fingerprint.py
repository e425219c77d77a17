"""What stands for the rows of a dataset of the library `datasets`."""

from importlib.metadata import version
from typing import Any


def dataset_fingerprint(data: Any) -> str:
    """Stands for the rows of a `datasets.Dataset`; another source, or another step that made it, changes it.

    The library documents the attribute (https://huggingface.co/docs/datasets/about_cache) without a public name.

    Raises:
        ImportError: If this version of the library has none.
    """
    if not isinstance(fingerprint := getattr(data, "_fingerprint", None), str):
        raise ImportError(
            f"datasets {version('datasets')} does not say by a fingerprint which rows a dataset holds. Install a "
            "version that mofi's setup.py allows."
        )
    return fingerprint
