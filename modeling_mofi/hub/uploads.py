"""Uploads of folders to the Hub: one commit, to a repository that may be written, without secrets or local folders."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi

from ..whole_files import read_json, write_json
from .failures import explained_failures
from .public_text import public_setting


RECIPE_NAME = "recipe.json"
# Files with settings, in which no secret and no local folder is published.
SETTINGS_NAMES = (RECIPE_NAME, "manifest.json")


def upload_folder(
    folder: str | Path,
    repo_id: str,
    *,
    patterns: list[str],
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    kept: str | None = None,
    kind: str = "model",
) -> str:
    """Makes the repository if need be, uploads the matching files in one commit, and returns the commit's URL.

    Args:
        kind: `model` or `dataset`.

    Raises:
        ConnectionError: If the Hub is out of reach, or stops answering.
        PermissionError: If there is no token, or one without the right to write.
    """
    kept, api = kept or f"the files are in {folder}", HfApi(token=token)
    repo_id = make_repository(repo_id, private=private, token=token, kept=kept, kind=kind)
    with explained_failures(repo_id, kept=kept, token=token):
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=kind)
        return api.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],  # Files of the same names in the checkpoints of a run.
            commit_message=commit_message,
            revision=revision,
        ).commit_url


@contextmanager
def public_copy(folder: Path) -> Iterator[Path]:
    """A folder of links to the same files, in which recipe or manifest name no secret and no local folder."""
    with tempfile.TemporaryDirectory() as name:
        for path in filter(Path.is_file, folder.iterdir()):
            (Path(name) / path.name).symlink_to(path.resolve())
        for path in filter(Path.is_file, (folder / settings for settings in SETTINGS_NAMES)):
            (Path(name) / path.name).unlink()
            write_json(Path(name) / path.name, public_setting(read_json(path)))
        yield Path(name)


def make_repository(
    repo_id: str, *, private: bool | None = None, token: str | None = None, kept: str, kind: str = "model"
) -> str:
    """Makes a repository if it is not there, checks that it may be written, and returns its full name.

    Args:
        kept: As for `explained_failures`, which raises the errors.
    """
    with explained_failures(repo_id, kept=kept, token=token):
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind).repo_id
        api.auth_check(repo_id, write=True, repo_type=kind)
    return repo_id
