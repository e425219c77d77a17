import json
import shutil

import pytest
from PIL import Image

import evaluate_mofi
from evaluation.benchmark import Benchmark, read_benchmarks
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.user_errors import run_command
from tests.evaluation.conftest import COLORS, clip_folder, colors_file, own_caches, picture, write_rows  # noqa: F401


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
        (["--model", "pixels", "--data", SAMPLE], "no column 'label'; it has .*by --label_column"),
        (["--model", "pixels", "pixels", "--data", SAMPLE, "--label_column", "style"], "names a model twice"),
    ],
)
def test_missing_and_unknown_arguments_are_named(run, argv, message):
    with pytest.raises(ValueError, match=message):
        run(*argv)


@pytest.mark.parametrize("flag", ["task", "candidates", "entity_text", "dtype", "preprocessing", "pooling"])
def test_a_choice_that_is_none_is_refused_with_the_choices(run, flag, capsys):
    with pytest.raises(SystemExit):
        run("--model", "pixels", "--data", SAMPLE, f"--{flag}", "auot")
    error = capsys.readouterr().err
    assert f"argument --{flag}" in error and "invalid choice: 'auot' (choose from" in error


def test_the_command_ends_with_one_line_on_a_mistake(monkeypatch):
    argv = ["evaluate_mofi.py", "--model", "pixels", "--data", "missing.parquet", "--label_column", "x"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="^error: missing.parquet does not exist"):
        run_command(evaluate_mofi.main)


@pytest.mark.parametrize("task", ["retrieval", "knn", "linear_probe", "zero_shot"])
def test_i2e_is_evaluated_as_it_is(run, tiny_i2e, clip_folder, tmp_path, task):  # noqa: F811
    validation = tiny_i2e / "data" / "validation-00000-of-00001.parquet"
    shutil.copy(tiny_i2e / "data" / "train-00000-of-00002.parquet", validation)
    card = (tiny_i2e / "README.md").read_text()
    split = "{split: validation, path: data/validation-*.parquet}"
    (tiny_i2e / "README.md").write_text(card.replace("{split: train", f"{split}, {{split: train"))
    data = ["--data", tiny_i2e, "--split", "validation", "--gallery_split", "train", "--bootstrap", 0, "--ks", 1]
    options = ["--figures", tmp_path / "figures", "--regularization", 1]
    (result,) = run("--model", clip_folder, "--task", task, *data, *options)
    assert result.counts["images"] == 12
    if task == "knn":
        assert result.values["k=1"].value == 1.0  # The images themselves are in the gallery.


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


def test_published_numbers_stand_beside_ours(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: [pixels]\noutput: {tmp_path}/results.json\nbenchmarks:\n"
        f"  styles: {{data: {SAMPLE}, label_column: style, limit: 60}}\n"
        "published:\n  Somebody (a paper): {styles: {mAP: 0.5}}\n"
    )
    run(recipe)
    assert "| *Somebody (a paper)* | 0.5 |  |" in (tmp_path / "results.md").read_text()
    assert "published" in json.loads((tmp_path / "results.json").read_text())


def test_a_model_is_left_out_of_a_task_that_it_cannot_do(run, colors_file, clip_folder, caplog):  # noqa: F811
    arguments = "--data", colors_file, "--label_column", "color", "--task", "zero_shot"
    assert [result.model for result in run("--model", "pixels", f"clip={clip_folder}", *arguments)] == ["clip"]
    assert "leaves out pixels: pixels has no text tower" in caplog.text
    with pytest.raises(ValueError, match="No model has what the tasks need"):
        run("--model", "pixels", *arguments)


def test_results_so_far_survive_a_failure(run, tmp_path, colors_file):  # noqa: F811
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: [pixels]\noutput: {tmp_path}/results.json\nlabel_column: color\nbenchmarks:\n"
        f"  good: {{data: {colors_file}}}\n  bad: {{data: {colors_file}, task: linear_probe}}\n"
    )
    with pytest.raises(ValueError, match="linear_probe needs --gallery"):
        run(recipe)
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["benchmark"] == "good"


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        (["gpr1200", "--label_column", "number"], {"mAP", "Landmarks"}),
        (["knn", "--label_column", "number", "--ks", "1", "3"], {"k=1", "k=3", "k=3 weighted"}),
        (["zero_shot", "--label_column", "color"], {"accuracy", "per class"}),
        (["linear_probe", "--label_column", "color", "--regularization", "1"], {"accuracy", "per class"}),
        (["image_text_retrieval", "--text_column", "alt_text"], {"image to text R@1", "text to image R@10"}),
    ],
)
def test_every_task_runs_from_the_command(run, colors_file, clip_folder, task, metrics):  # noqa: F811
    gallery = ["--gallery", shutil.copy(colors_file, f"{colors_file}.parquet")] if task[0] == "linear_probe" else []
    (result,) = run("--model", clip_folder, "--data", colors_file, "--task", *task, *gallery, "--bootstrap", 10)
    assert metrics <= set(result.values)
    assert all(0 <= value.value <= 1 for value in result.values.values() if value.num_queries)


def test_neighbors_vote_between_the_splits_of_a_folder(run, tmp_path):
    for split, count in (("train", 3), ("validation", 2)):
        for name, color in COLORS.items():
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for seed in range(count):
                path = tmp_path / "photos" / split / name / f"{split}-{name}-{seed}.png"
                path.write_bytes(picture(color, seed=seed))
    splits = "--split", "validation", "--gallery_split", "train", "--label_column", "label"
    (result,) = run("--model", "pixels", "--task", "knn", "--data", tmp_path / "photos", *splits, "--ks", 1, 3)
    assert (result.counts["images"], result.values["k=3 weighted"].value) == (6, 1.0)


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("configs/suite_retrieval.yaml", 12),
        ("configs/eval_vtab.yaml", 38),
        ("configs/eval_paper.yaml", 5),
        ("configs/eval_sample_naming.yaml", 8),
    ],
)
def test_the_recipes_are_valid_and_complete(recipe, count):
    types = (evaluate_mofi.EvaluationArguments, Benchmark)
    args, default = parse_recipe(types, [recipe, "--model", "pixels"])
    benchmarks = read_benchmarks(args.benchmarks, default)
    evaluate_mofi.check_arguments(args, benchmarks)
    assert len(benchmarks) == count
    named = {name for row in (args.published or {}).values() for name in row}
    assert named <= set(benchmarks)


def test_a_suite_is_a_recipe_with_one_mean_per_model(monkeypatch, run, tmp_path, colors_file):  # noqa: F811
    assert evaluate_mofi.with_suite(["--model", "m", "--suite", "retrieval"])[0] == "suite_retrieval.yaml"
    (tmp_path / "suite_own.yaml").write_text(
        f"label_column: color\nbenchmarks:\n  a: {{data: {colors_file}}}\n  b: {{data: {colors_file}, task: knn}}\n"
    )
    monkeypatch.chdir(tmp_path)
    results = run("--suite", "own", "--model", "pixels", "--output", "out.json", "--figures", "figures")
    assert [result.benchmark for result in results] == ["a", "b", "suite: own"]
    firsts = [next(iter(result.values.values())).value for result in results]
    assert firsts[2] == (firsts[0] + firsts[1]) / 2
    assert (
        "suite: own" in (tmp_path / "out.model-index.json").read_text() and (tmp_path / "figures/bars.png").is_file()
    )


def test_near_duplicates_of_training_data_are_left_out(run, colors_file):  # noqa: F811
    arguments = "--model", "pixels", "--label_column", "color", "--data", colors_file
    with pytest.raises(ValueError, match="are near-duplicates of images"):
        run(*arguments, "--training_data", colors_file)


def test_models_are_named_by_hand_by_their_last_part_or_by_their_path(tmp_path):
    (tmp_path / "lr=1").mkdir()
    named = evaluate_mofi.model_names(["base=owner/clip", "runs/a/mofi", f"{tmp_path}/lr=1"])
    assert named == {"base": "owner/clip", "mofi": "runs/a/mofi", "lr=1": f"{tmp_path}/lr=1"}
    assert list(evaluate_mofi.model_names(["a/mofi", "b/mofi"])) == ["a/mofi", "b/mofi"]
