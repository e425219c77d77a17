"""What may be published of settings and of what other people wrote: no secrets, no local folders, no markup."""

import os
import re
from typing import Any


# Name and password before the host, up to the last `@`: passwords hold slashes and `@` themselves. Then the query, the
# parameters and the fragment, where tokens and signatures stand.
CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@]*:\S*|[^/\s@]+)@")
QUERY = re.compile(r"(?P<url>\w+://[^\s?#;]+)[?#;]\S*")
TOKEN = re.compile(r"\b(?:(?:hf|ghp|gho|sk)_[A-Za-z0-9]{20,}|github_pat_\w{20,})|(?<=Bearer )[^\s'\"]+")
MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def public_setting(value: Any) -> Any:
    """A setting as others may see it, with all that it holds.

    URLs lose name, password, query and fragment, tokens are left out, and of an absolute local path the last part
    stays. A path in the middle of a text is not found.
    """
    if isinstance(value, dict):
        return {public_setting(key): public_setting(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public_setting(item) for item in value]
    if not isinstance(value, str):
        return value
    value = TOKEN.sub("...", QUERY.sub(r"\g<url>", CREDENTIALS.sub("", value))).removeprefix("file://")
    is_local = os.path.isabs(value) or value.startswith("~") or re.match(r"[A-Za-z]:[\\/]|\\\\", value)
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if is_local else value


def plain_text(value: Any) -> str:
    """A text of others in one line of Markdown, with nothing in it that Markdown or HTML would take for markup."""
    return MARKUP.sub(r"\\\1", " ".join(str(value).split()))
