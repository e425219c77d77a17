"""Recipes: YAML, flags, and what is wrong with them."""

from dataclasses import dataclass, field

import pytest

from modeling_mofi.recipe_parser import parse_recipe


@dataclass
class Settings:
    data: str
    learning_rate: float = 1e-3
    num_steps: int | None = 10
    is_fast: bool = False
    names: list[str] = field(default_factory=list)
    options: str = "{}"


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\nlearning_rte: 1\n", "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ("data: a\nnum_steps: many\n", "argument --num_steps/--num-steps: invalid int value: 'many'"),
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
