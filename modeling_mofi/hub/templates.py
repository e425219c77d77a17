"""Fills the templates of cards and reports: whatever a value holds, it is text there, and no secret is in it."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, RepoCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .public_text import plain_text, public_setting


def fill_template(path: Path, *, is_public: bool = True, **fields: Any) -> str:
    """Fills a Jinja template of Markdown (`.md`) or HTML (`.html`).

    Every value is made public and escaped. Filters say where one stands in another way: `data` leaves a text of the
    dataset unredacted, `code` is an inline code span, `quoted` a string in a code block, `fenced` a code block,
    `markdown` what is Markdown already; `thousands` writes 1234 as 1,234.

    Args:
        is_public: Whether others will see it; else local paths stay.
    """
    escaped = escape if ".html" in path.name else lambda value: Markup(plain_text(value))
    public = partial(public_setting, with_paths=not is_public)
    environment = Environment(
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else escaped(public(value)),
        keep_trailing_newline=True,
        loader=FileSystemLoader(path.parent),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "data": escaped,
        "code": lambda value: Markup(code_span(public(value))),
        "quoted": lambda value: Markup(json.dumps(public(value), ensure_ascii=False)),
        "thousands": "{:,}".format,
        "markdown": lambda text: Markup(public(text)),
        "fenced": lambda text, language="": Markup(code_block(text, language)),
    }
    return environment.get_template(path.name).render(fields)


def fill_card(path: Path, kind: type[RepoCard], metadata: CardData, *, is_public: bool = True, **fields: Any) -> str:
    """Fills the template of a card, and puts what the Hub reads before it.

    Args:
        kind: `ModelCard` or `DatasetCard`.
    """
    front_matter = kind.card_data_class(**public_setting(metadata.to_dict(), with_paths=not is_public))
    return str(kind(f"---\n{front_matter}\n---\n\n{fill_template(path, is_public=is_public, **fields)}"))


def code_span(value: Any) -> str:
    """A value as code in one line, also in the cell of a table."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"


def code_block(text: str, language: str) -> str:
    """A block of code, fenced by more backticks than stand together in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
