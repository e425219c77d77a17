import json

import pytest
from PIL import Image

import evaluate_mofi
from tests.evaluation.conftest import clip_folder, colors_file, own_caches, write_rows  # noqa: F401


SAMPLE = "sample_data/pairs/test.parquet"


@pytest.fixture
def run(tmp_path):
    """Runs the command in this process with a cache of its own."""
    return lambda *argv: evaluate_mofi.main([*map(str, argv), "--cache_dir", str(tmp_path / "embeddings")])


def test_raw_pixels_are_the_known_floor_of_the_sample(run):
    (result,) = run("--model", "pixels", "--data", SAMPLE, "--label_column", "gold_entity_id", "--bootstrap", 100)
    value = result.values["mAP"]
    assert value.value == pytest.approx(0.335, abs=0.002)
    assert value.low < value.value < value.high
    assert (value.num_queries, result.counts["excluded_queries"]) == (444, 1)


def test_several_models_share_one_table_and_one_figure(run, colors_file, clip_folder, tmp_path, capsys):  # noqa: F811
    outputs = "--output", tmp_path / "results.json", "--figure", tmp_path / "found.png"
    run("--model", "pixels", f"clip={clip_folder}", "--data", colors_file, "--label_column", "color", *outputs)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [result["model"] for result in document["results"]] == ["pixels", "clip"]
    assert document["results"][0]["values"]["1-NN"]["value"] == 1.0
    assert document["versions"]["torch"]
    assert (tmp_path / "results.md").read_text() in capsys.readouterr().out
    assert "| pixels | **1.0000**" in (tmp_path / "results.md").read_text()
    assert Image.open(tmp_path / "found.png").width > 1000


def test_a_gallery_is_searched_instead_of_the_queries(run, colors_file):  # noqa: F811
    arguments = "--model", "pixels", "--data", colors_file, "--label_column", "color", "--gallery", colors_file
    (result,) = run(*arguments)
    assert result.counts["excluded_queries"] == 0
    assert result.values["1-NN"].value == 1.0


def test_keeping_the_query_raises_the_value(run):
    arguments = "--model", "pixels", "--data", SAMPLE, "--label_column", "gold_entity_id", "--bootstrap", 0
    left_out, kept = run(*arguments)[0], run(*arguments, "--keep_query")[0]
    assert kept.values["mAP"].value == pytest.approx(0.452, abs=0.002)
    assert kept.values["1-NN"].value == left_out.values["1-NN"].value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", SAMPLE, "--label_column", "style"], "--model is missing"),
        (["--model", "pixels"], "--data is missing"),
        (["--model", "pixels", "--data", SAMPLE], "--label_column is missing"),
        (["--model", "pixels", "--data", SAMPLE, "--task", "retrievl"], "task 'retrievl' is unknown; choose one of"),
        (["--model", "pixels", "pixels", "--data", SAMPLE, "--label_column", "style"], "names a model twice"),
    ],
)
def test_missing_and_unknown_arguments_are_named(run, argv, message):
    with pytest.raises(ValueError, match=message):
        run(*argv)


def test_the_command_ends_with_one_line_on_a_mistake(monkeypatch):
    argv = ["evaluate_mofi.py", "--model", "pixels", "--data", "missing.parquet", "--label_column", "x"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="^evaluate_mofi.py: missing.parquet does not exist"):
        evaluate_mofi.run_command()


def test_benchmarks_of_a_recipe_run_by_name(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: [pixels]\nbootstrap: 0\nbenchmarks:\n"
        f"  entities: {{data: {SAMPLE}, label_column: gold_entity_id, limit: 60}}\n"
        f"  styles: {{data: {SAMPLE}, label_column: style, limit: 60}}\n"
    )
    assert [result.benchmark for result in run(recipe)] == ["entities", "styles"]


def test_an_unknown_key_of_a_benchmark_names_the_nearest(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: [pixels]\nbenchmarks:\n  styles: {{data: {SAMPLE}, label_colum: style}}\n")
    with pytest.raises(ValueError, match="unknown key 'label_colum'; did you mean 'label_column'"):
        run(recipe)
