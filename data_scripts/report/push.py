"""Publishes a finished build on the Hub: data, entities, card and report; what lies before them stays here."""

import logging
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from modeling_mofi.hub.failures import explained_failures


logger = logging.getLogger(__name__)
# The Hub advises against commits of many more files.
FILES_PER_COMMIT = 100


def push_to_hub(folder: Path, repo_id: str, *, private: bool, build_id: str) -> str:
    """Uploads a dataset, and removes the data files that another build left there.

    A large dataset goes in several commits, of which the last one brings the card and removes what is stale. Stopped
    and started again, files that have arrived are not sent twice.

    Returns:
        The URL of the last commit.

    Raises:
        ConnectionError: If the Hub is out of reach.
        PermissionError: If there is no token, or one without the right to write.
    """
    data = sorted((folder / "data").glob("*.parquet"))
    rest = [folder / name for name in ("entities.parquet", "report.html", "README.md")]
    smaller = "Build again with a smaller --rows_per_file"
    with explained_failures(repo_id, kept=f"the dataset is in {folder}", smaller=smaller):
        api = HfApi()
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        cuts = range(0, max(1, len(data)), FILES_PER_COMMIT)
        for number, first in enumerate(cuts):
            operations: list = add_files(data[first : first + FILES_PER_COMMIT], folder)
            is_last = number == len(cuts) - 1
            if is_last:
                operations += add_files(rest, folder) + delete_stale(api, repo_id, data, folder)
            message = f"Build {build_id}" + ("" if len(cuts) == 1 else f", part {number + 1} of {len(cuts)}")
            commit = api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset")
    logger.info("pushed to %s", commit.commit_url)
    return commit.commit_url


def add_files(paths: Sequence[Path], folder: Path) -> list[CommitOperationAdd]:
    """What a commit adds, at the same places as in the folder."""
    return [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]


def delete_stale(api: HfApi, repo_id: str, data: Sequence[Path], folder: Path) -> list[CommitOperationDelete]:
    """Data files on the Hub that are not of this build: `load_dataset` would read them along."""
    current = {path.relative_to(folder).as_posix() for path in data}
    found = api.list_repo_files(repo_id, repo_type="dataset")
    return [
        CommitOperationDelete(name)
        for name in found
        if name.startswith("data/") and name.endswith(".parquet") and name not in current
    ]
