"""What may be published of settings and of what other people wrote: no secrets, no local folders, no markup."""

import os
import re
from typing import Any


# Name and password before the host, up to the last `@`: passwords hold slashes and `@` themselves. Then the query, the
# parameters and the fragment, where tokens and signatures stand.
CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@]*:\S*|[^/\s@]+)@")
QUERY = re.compile(r"(?P<url>\w+://[^\s?#;]+)[?#;]\S*")
TOKEN = re.compile(
    r"\b(?:(?:hf|ghp|gho|ghs|sk)_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)"
    r"|(?<=Bearer )[^\s'\"]+|(?<=Basic )[^\s'\"]+"
)
SECRET_NAME = re.compile(r"(?:^|_)(?:token|password|secret|api_key|access_key)$", re.IGNORECASE)
# Where an absolute path begins: `/x`, `~/x`, `~ann/x`, `C:\x`, `//server/x` or `\\server\x`, but no URL and no `/ `.
ROOT = r"(?:~[\w.-]*[\\/]|[A-Za-z]:[\\/]|\\\\|(?<!:)//(?!\s)|/(?![/\s]))"
FILE_URL = re.compile(r"file://[^/\s]*(?=/)")
IS_LOCAL = re.compile(ROOT)
QUOTED_PATH = re.compile(rf"(?P<quote>['\"`])(?P<path>{ROOT}[^'\"`\n]*)(?P=quote)")
PATH_IN_TEXT = re.compile(rf"(?:^|(?<=[\s'\"`(\[{{<=,:;|]))(?P<path>{ROOT}[^\s'\"`<>|,;)\]}}]*)")
MARKUP = re.compile(r"([\\`*_\[\]<>|#&$~])")
HIDDEN = "..."


def public_setting(value: Any, *, with_paths: bool = False) -> Any:
    """A setting, or any text, as others may see it, with all that it holds.

    URLs lose name, password, query and fragment, tokens and what is called a password are left out, and of absolute
    local paths, also in the middle of a text, the last part stays.

    Args:
        with_paths: Whether local paths stay, for what is written for its owner.
    """
    if isinstance(value, dict):
        return {
            public_setting(key, with_paths=with_paths): HIDDEN
            if isinstance(item, str) and SECRET_NAME.search(str(key))
            else public_setting(item, with_paths=with_paths)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [public_setting(item, with_paths=with_paths) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    value = TOKEN.sub(HIDDEN, QUERY.sub(r"\g<url>", CREDENTIALS.sub("", value)))
    return value if with_paths else without_folders(value)


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last part."""
    text = FILE_URL.sub("", text)
    if IS_LOCAL.match(text) and "\n" not in text:
        return last_part(text)
    text = QUOTED_PATH.sub(lambda found: found["quote"] + last_part(found["path"]) + found["quote"], text)
    return PATH_IN_TEXT.sub(lambda found: last_part(found["path"]), text)


def last_part(path: str) -> str:
    """The name of a file or folder, whatever system the path is of."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def plain_text(value: Any) -> str:
    """A text of others in one line of Markdown, with nothing in it that Markdown or HTML would take for markup."""
    return MARKUP.sub(r"\\\1", " ".join(str(value).split()))
