"""Recipes: YAML, flags, and what is wrong with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from modeling_mofi.bundled import find_config
from modeling_mofi.recipe_parser import check_choices, parse_recipe


ROOT = Path(__file__).parents[2]


@dataclass
class Settings:
    data: str
    learning_rate: float = 1e-3
    num_steps: int | None = 10
    is_fast: bool = False
    names: list[str] = field(default_factory=list)
    options: str = "{}"
    low: float | None = None
    share: float | None = None
    mode: Literal["fast", "slow"] | None = None
    model: str | None = "default"
    EXCLUSIVE: ClassVar = (("low", "share"),)


def parse(tmp_path, text, *flags):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_recipe(Settings, [str(path), *flags])[0]


def test_values_have_the_types_of_their_fields(tmp_path):
    settings = parse(tmp_path, "data: a\nlearning_rate: 1e-4\nis_fast: true\nnames: [x, y]\noptions: {k: 1}\n")
    assert settings == Settings("a", 1e-4, 10, True, ["x", "y"], '{"k": 1}')


def test_null_is_none(tmp_path):
    assert parse(tmp_path, "data: a\nnum_steps: null\n").num_steps is None


def test_an_empty_list_is_one(tmp_path):
    assert parse(tmp_path, "data: a\nnames: []\n").names == []


def test_flags_win_over_the_recipe(tmp_path):
    assert parse(tmp_path, "data: a\nnum_steps: 3\n", "--num_steps", "4").num_steps == 4


def test_later_recipes_win_over_earlier(tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text("num_steps: 7\n")
    assert parse(tmp_path, "data: a\nnum_steps: 3\nlearning_rate: 2\n", str(second)) == Settings("a", 2.0, 7)


def test_no_recipe_is_needed():
    assert parse_recipe(Settings, ["--data", "b"])[0] == Settings("b")


@pytest.mark.parametrize("flags", [["--num_steps", "null"], ["--num-steps=null"]])
def test_a_flag_may_say_null_over_a_recipe(tmp_path, flags):
    assert parse(tmp_path, "data: a\nnum_steps: 3\n", *flags).num_steps is None


LATER = [
    (["--num_steps", "4", "--num_steps", "null"], None),
    (["--num_steps=4", "--data", "b", "--num-steps=null"], None),
    (["--num_steps", "null", "--num_steps", "4"], 4),
    (["--num-steps=null", "--num_steps=4"], 4),
    (["--num_steps", "4", "--num-steps", "5"], 5),
]


@pytest.mark.parametrize(("flags", "expected"), LATER, ids=[" ".join(flags) for flags, _ in LATER])
def test_of_a_flag_that_is_given_twice_the_later_wins(tmp_path, flags, expected):
    assert parse(tmp_path, "data: a\nnum_steps: 3\n", *flags).num_steps == expected


def test_null_is_no_text_where_a_text_may_be_missing_and_text_where_not():
    assert parse_recipe(Settings, ["--data", "null", "--model", "null"])[0] == Settings("null", model=None)


def test_a_flag_takes_the_place_of_the_key_that_it_excludes(tmp_path):
    settings = parse(tmp_path, "data: a\nshare: 0.5\n", "--low=0.25")
    assert (settings.low, settings.share) == (0.25, None)
    assert parse(tmp_path, "data: a\nshare: 0.5\n", "--low", "null").share == 0.5


def test_a_later_recipe_takes_the_place_of_the_key_that_it_excludes(tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text("share: 0.5\n")
    settings = parse(tmp_path, "data: a\nlow: 0.25\n", str(second))
    assert (settings.low, settings.share) == (None, 0.5)


def test_two_that_exclude_one_another_given_at_once_are_left_to_be_refused(tmp_path):
    settings = parse(tmp_path, "data: a\n", "--low", "0.1", "--share", "0.5")
    assert (settings.low, settings.share) == (0.1, 0.5)


@pytest.mark.parametrize("name", ["train_b16", "train_b16.yaml", "configs/train_b16.yaml"])
def test_a_recipe_of_the_package_needs_no_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name, suffix=".yaml").read_text() == (ROOT / "configs" / "train_b16.yaml").read_text()


def test_a_file_here_comes_before_the_recipe_of_that_name_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_b16.yaml").write_text("data: a\n")
    assert parse_recipe(Settings, ["train_b16.yaml"])[0].data == "a"
    assert find_config("elsewhere/train_l14.yaml") is None


def test_choices_are_checked_without_a_command_line_too():
    check_choices(Settings("a", mode="slow"))
    with pytest.raises(ValueError, match="mode is 'quick'; it must be one of fast, slow"):
        check_choices(Settings("a", mode="quick"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\nlearning_rte: 1\n", "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ("data: a\nnum_steps: many\n", "argument --num_steps/--num-steps: invalid int value: 'many'"),
        ("data: a\nmode: quick\n", "argument --mode: invalid choice: 'quick' (choose from"),
        ("data: [\n", "is no YAML: while parsing"),
        ("- data\n", "must map keys to values, got a list"),
        ("learning_rate: 1\n", "the following arguments are required: --data"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_reason(tmp_path, capsys, text, message):
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, text)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_recipe_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(Settings, ["nowhere.yaml"])
    assert "recipe nowhere.yaml does not exist" in capsys.readouterr().err
