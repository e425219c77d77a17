"""Reads a recipe: YAML files whose values are flags, the later ones winning, and flags that override them all."""

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_recipe(
    dataclass_types: type | Sequence[type], argv: Sequence[str] | None = None, *, description: str | None = None
) -> tuple[Any, ...]:
    """Fills dataclasses from `[RECIPE.yaml ...] [--key value ...]`; what comes later wins.

    Every value of the recipe goes through argparse as a flag would, so `1e-3`, which YAML takes for a string, becomes
    a float, and a wrong type is refused with the name of its key.

    Args:
        dataclass_types: One dataclass or several, with distinct field names.
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        One instance per dataclass.

    Raises:
        SystemExit: With status 2 and a message, if the file is missing, a key is unknown or a value has a wrong type.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        usage="%(prog)s [RECIPE.yaml ...] [--key value ...]",
        allow_abbrev=False,
    )
    recipe: dict[str, Any] = {}
    while argv and not argv[0].startswith("-"):
        recipe |= read_recipe(argv.pop(0), parser)
    # What no flag can say.
    parser.set_defaults(**{key: value for key, value in recipe.items() if value is None or value == []})
    namespace = parser.parse_args([*recipe_as_flags(recipe), *argv])
    values = vars(namespace)
    return tuple(
        kind(**{name: values[name] for name, field in kind.__dataclass_fields__.items() if field.init})
        for kind in parser.dataclass_types
    )


def read_recipe(path: str, parser: HfArgumentParser) -> dict[str, Any]:
    """Loads a YAML mapping and refuses keys that no dataclass knows."""
    if not Path(path).is_file():
        parser.error(f"recipe {path} does not exist")
    recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, dict):
        parser.error(f"recipe {path} must map keys to values, got a {type(recipe).__name__}")
    known = {action.dest for action in parser._actions} - {"help"}
    for key in recipe:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            parser.error(f"recipe {path} has the unknown key {key!r}{hint}")
    return recipe


def recipe_as_flags(recipe: dict[str, Any]) -> list[str]:
    """Turns `{"a": 1, "b": [2, 3], "c": {"d": 4}}` into `--a=1 --b 2 3 --c={"d": 4}`; leaves out null and `[]`."""
    flags: list[str] = []
    for key, value in recipe.items():
        if value is None or value == []:
            continue
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        else:
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags
