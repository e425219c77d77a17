"""Folders of the Hub on this machine: fetched once, opened from the cache afterwards."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .failures import httpx


def download(
    name: str | os.PathLike, patterns: list[str], *, kind: str = "model", revision: str | None = None
) -> Path:
    """The folder itself, or a copy of the files of a repository on the Hub; without network, the copy in the cache.

    Args:
        patterns: Of the files that are fetched.
        kind: `model` or `dataset`.
        revision: Branch, tag or commit; by default the newest commit.

    Raises:
        ValueError: If there is neither.
        ConnectionError: If the Hub is out of reach and the files were never downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), repo_type=kind, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise ValueError(f"{name} on the Hub has no revision {revision}.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(f"{name} is no folder here, and no {kind} on the Hub that you may read.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
        raise ConnectionError(
            f"{name} is no folder here, and the Hub is out of reach ({type(error).__name__}). Check the name, the "
            "network and HF_HUB_OFFLINE."
        ) from error


def is_hub_id(name: str | None) -> bool:
    """Whether a name is `user/name` and no path on this machine."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()
