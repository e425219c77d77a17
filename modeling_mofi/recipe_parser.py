"""Reads a recipe: YAML files whose values are flags, the later ones winning, and flags that override them all."""

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from .bundled import bundled, find_config


NULL = "null"


def parse_recipe(
    dataclass_types: type | Sequence[type], argv: Sequence[str] | None = None, *, description: str | None = None
) -> tuple[Any, ...]:
    """Fills dataclasses from `[RECIPE.yaml ...] [--key value ...]`; what comes later wins.

    Every value of the recipe goes through argparse as a flag would, so `1e-3`, which YAML takes for a string, becomes
    a float, and a wrong type is refused with the name of its key. `--key null` gives a key that may be None no value.
    A dataclass may name keys that exclude one another in `EXCLUSIVE`, pairs of field names: one that is given later
    takes the other's place.

    Args:
        dataclass_types: One dataclass or several, with distinct field names.
        argv: Arguments without the program's name; those of the process by default. A recipe that is no file here is
            looked for among those of the package (see `find_config`).

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
    kinds = parser.dataclass_types
    exclusive = [pair for kind in kinds for pair in getattr(kind, "EXCLUSIVE", ())]
    recipe: dict[str, Any] = {}
    while argv and not argv[0].startswith("-"):
        recipe = override(recipe, read_recipe(argv.pop(0), parser), exclusive)
    argv, nulls = take_nulls(argv, kinds)
    given = {flag_name(flag) for flag in argv if flag.startswith("--")}
    recipe = override(recipe, dict.fromkeys(given, True), exclusive)
    recipe = {key: value for key, value in recipe.items() if key not in given} | dict.fromkeys(nulls)
    # What no flag can say.
    parser.set_defaults(**{key: value for key, value in recipe.items() if value is None or value == []})
    values = vars(parser.parse_args([*recipe_as_flags(recipe), *argv]))
    return tuple(kind(**{field.name: values[field.name] for field in fields(kind) if field.init}) for kind in kinds)


def read_recipe(path: str, parser: HfArgumentParser) -> dict[str, Any]:
    """Loads a YAML mapping and rejects keys that no dataclass knows."""
    if (found := find_config(path, suffix=".yaml")) is None:
        names = ", ".join(sorted(recipe.stem for recipe in bundled("configs").glob("*.yaml")))
        parser.error(f"recipe {path} does not exist; those of the package are {names}")
    try:
        recipe = yaml.safe_load(found.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"recipe {path} is no YAML: {' '.join(str(error).split())}")
    if not isinstance(recipe, dict):
        parser.error(f"recipe {path} must map keys to values, got a {type(recipe).__name__}")
    known = [field.name for kind in parser.dataclass_types for field in fields(kind) if field.init]
    for key in recipe:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            parser.error(f"recipe {path} has the unknown key {key!r}{hint}")
    return recipe


def override(recipe: dict[str, Any], later: dict[str, Any], exclusive: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A recipe in which later settings replace earlier ones and those that they exclude."""
    replaced = {old for pair in exclusive for new, old in (pair, pair[::-1]) if later.get(new) is not None}
    return {key: value for key, value in recipe.items() if key not in replaced} | later


def flag_name(flag: str) -> str:
    """The key of `--some_key`, `--some-key` or `--some_key=value`."""
    return flag.removeprefix("--").partition("=")[0].replace("-", "_")


def take_nulls(argv: Sequence[str], kinds: Sequence[type]) -> tuple[list[str], list[str]]:
    """Takes `--key null` and `--key=null` out of flags, where the key may be None; returns the rest and the keys.

    Of a key that is given twice the later one stays, null or not.
    """
    hints = {key: hint for kind in kinds for key, hint in get_type_hints(kind).items()}
    groups: dict[str, list[str]] = {"": []}  # A flag with its values.
    name = ""
    for token in argv:
        if token.startswith("--"):
            name = flag_name(token)
            groups.pop(name, None)
            groups[name] = []
        groups[name] += token.split("=", 1) if token.startswith("--") and token.endswith(f"={NULL}") else [token]
    nulls = [key for key, words in groups.items() if words[1:] == [NULL] and type(None) in get_args(hints.get(key))]
    return [word for key, words in groups.items() if key not in nulls for word in words], nulls


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


def json_mapping(name: str, value: dict | str | None) -> dict:
    """Reads a mapping that came as a flag, in JSON; a dict stays as it is, None is an empty one.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        parsed = json.loads(value) if isinstance(value, str) else value or {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}; it must be a JSON mapping ({error}).") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is {value!r}; it must be a JSON mapping.")
    return parsed


def check_choices(settings: Any) -> None:
    """Refuses values that a dataclass's `Literal` fields do not list; argparse has done so for flags.

    Raises:
        ValueError: With the choices.
    """
    for name, hint in get_type_hints(type(settings)).items():
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        choices = [choice for literal in literals for choice in get_args(literal)]
        value = getattr(settings, name, None)
        if choices and value not in choices and not (value is None and type(None) in get_args(hint)):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}.")
