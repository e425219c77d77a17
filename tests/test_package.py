"""The wheel, installed where nothing of this clone is seen, runs the whole chain; and what the command `mofi` says."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hub_server import TOKEN, running_hub
from packaging.requirements import Requirement
from tiny import COLORS, IMAGE_TYPE, NAMES, make_tiny_config, make_tiny_processor, picture

import modeling_mofi
from modeling_mofi import MofiModel


ROOT = Path(__file__).parents[1]
TRAIN = {
    "vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"image_size": 16, "patch_size": 8},
    "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "projection_dim": 16,
    "stem_channels": [],
    "image_processor": {"size": {"height": 16, "width": 16}, "do_center_crop": False, "antialias": True},
    "attn_implementation": "eager",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_steps": 2,
    "warmup_steps": 0,
    "num_sampled_entities": None,
    "eval_strategy": "no",
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "torch_compile": False,
    "gradient_checkpointing": False,
    "bf16": False,
    "tf32": False,
    "use_cpu": True,
    "report_to": "none",
}


def mofi(*arguments, cwd=ROOT, command=(sys.executable, "-m", "mofi"), **environment):
    """Runs the command and returns what it left."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    words = [*map(str, command), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command `mofi` of an environment that has the wheel and all libraries of this one, but not this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    names = (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "model_card.md",
        "mofi.py",
        "train.py",
    )
    folders = ("modeling_mofi", "data_scripts", "evaluation", "metrics", "configs", "demo")
    for name in (*names, "evaluate_mofi.py"):
        (folder / "clone").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name)
    for name in folders:
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, folder / "clone"]
    subprocess.run([*pip, *build], check=True, timeout=200)
    shutil.rmtree(folder / "clone")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    # Listed there, this environment is searched last, and its own .pth files, which lead to the clone, are not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    (wheel,) = folder.glob("mofi-*.whl")
    install = ["--python", folder / "venv", "install", "--ignore-installed", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True, timeout=200)
    return folder / "venv" / "bin" / "mofi"


@pytest.fixture
def outside(tmp_path):
    """A folder with pairs, a file of entities, a filter model and a recipe, and nothing else."""
    processor = make_tiny_processor()
    processor.save_pretrained(tmp_path / "filter")
    processor.tokenizer.save_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    MofiModel(make_tiny_config()).save_pretrained(tmp_path / "filter")
    images = [{"bytes": picture(COLORS[row % 4], seed=row), "path": None} for row in range(16)]
    texts = [f"{NAMES[row % 4]} flag" for row in range(16)]
    labels = [NAMES[row % 4] for row in range(16)]
    table = pa.table({"image": pa.array(images, IMAGE_TYPE), "alt_text": texts, "label": labels})
    pq.write_table(table, tmp_path / "pairs.parquet")
    entities = [{"entity_id": f"Q{row}", "name": name, "num_sitelinks": 50} for row, name in enumerate(NAMES)]
    (tmp_path / "entities.jsonl").write_text("\n".join(map(json.dumps, entities)), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    return tmp_path


@pytest.mark.timeout(600)
def test_the_wheel_alone_builds_trains_evaluates_and_publishes(installed, outside):
    def run(*arguments, **environment):
        result = mofi(*arguments, cwd=outside, command=[installed], PYTHONPATH="", **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    run("build-knowledge-base", "--source", "entities.jsonl", "--output_dir", "kb")
    build = ["--pairs", "pairs.parquet", "--knowledge_base", "kb", "--filter_model", "filter", "--output_dir", "i2e"]
    # The recipe is that of the package, which asks for spaCy and a fraction to keep.
    own = ["--spacy_model", "null", "--min_similarity", "-1", "--min_probability", "0", "--min_images_per_entity", "1"]
    run("build", "build_i2e", *build, *own)
    assert (outside / "i2e" / "report.html").is_file()
    train = ["--dataset", "i2e", "--tokenizer_name", "tokenizer", "--output_dir", "trained"]
    run("train", "configs/train_b16.yaml", "tiny.yaml", *train)
    data = ["--data", "pairs.parquet", "--label_column", "label"]
    evaluate = ["--cache_dir", "cache", "--output", "results.json", "--bootstrap", "0", "--dtype", "float32"]
    assert "mofi" in run("evaluate", "--model", "mofi=trained", *data, *evaluate)
    zero_shot = ["--task", "zero_shot", "--cache_dir", "cache", "--bootstrap", "0", "--dtype", "float32"]
    run("evaluate", "--model", "mofi=trained", *data, *zero_shot)  # With the prompts of the package.
    with running_hub() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        run("publish", "trained", "--repo_id", "me/mofi", "--results", "results.json", **environment)
        files = hub.files["me/mofi"]
    assert {"README.md", "model.safetensors", "modeling_mofi.py", "entities.parquet"} <= set(files)
    assert b"to tell 4 entities apart" in files["README.md"]


def test_help_is_there_at_once_and_names_every_command():
    code = "import sys, mofi; sys.argv = ['mofi', '--help']; mofi.main(); assert 'torch' not in sys.modules"
    shown = mofi(command=[sys.executable, "-c", code]).stdout
    for name in ("build-knowledge-base", "build", "train", "evaluate", "publish", "convert", "export-onnx", "demo"):
        assert f"\n  {name} " in shown


def test_an_unknown_command_is_refused_with_the_nearest():
    result = mofi("biuld")
    assert (result.returncode, result.stderr) == (1, "error: mofi knows no command 'biuld'; did you mean 'build'?\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tiny.yaml", "--dataset", "none.parquet", "--output_dir", "x"], "dataset none.parquet does"),
        (["build-knowledge-base", "--source", "none.jsonl", "--output_dir", "x"], "source none.jsonl does not exist"),
        (["publish", "nowhere", "--repo_id", "me/x"], "nowhere has no config.json"),
        (["publish", "filter", "--repo_id", "me/x"], "There is no Hugging Face token on this machine"),
        (["evaluate", "--model", "pixels", "--data", "none.parquet", "--label_column", "x"], "none.parquet does not"),
        (["convert", "none.zip", "--output_dir", "x"], "none.zip"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_mistake_ends_every_command_with_one_line(words, message, outside):
    result = mofi(*words, cwd=outside, PYTHONPATH=str(ROOT), HF_HOME=str(outside / "home"))
    assert result.returncode == 1
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in result.stderr


def test_a_missing_module_is_named_with_the_extra_that_brings_it(outside):
    code = "import sys, mofi; sys.modules['sklearn'] = None; sys.argv = ['mofi', 'evaluate', '--help']; mofi.main()"
    result = mofi(command=[sys.executable, "-c", code])
    assert result.returncode == 1 and 'pip install "mofi[evaluate]"' in result.stderr


def test_train_runs_under_accelerate_by_the_name_of_the_command(outside):
    launch = [Path(sys.executable).parent / "accelerate", "launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu", "-m", "mofi"]
    train = ["--dataset", "pairs.parquet", "--recipe", "contrastive", "--tokenizer_name", "tokenizer"]
    result = mofi("train", "tiny.yaml", *train, "--output_dir", "x", cwd=outside, command=launch, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    assert (outside / "x" / "train_results.json").is_file()


def test_the_version_is_written_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", modeling_mofi.__version__)
    found = [
        path for path in (ROOT / "setup.py", ROOT / "pyproject.toml") if modeling_mofi.__version__ in path.read_text()
    ]
    assert not found


def test_tested_versions_lie_within_the_bounds(monkeypatch):
    """Of every library with an upper bound, constraints.txt has a version that the bound allows."""
    captured = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: captured.update(settings))
    exec(
        compile((ROOT / "setup.py").read_text(), str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")}
    )
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    lists = [captured["install_requires"], *captured["extras_require"].values()]
    for requirement in map(Requirement, (line for lines in lists for line in lines)):
        version = tested.get(requirement.name.lower())
        if "<" in str(requirement.specifier) and version is not None:
            assert requirement.specifier.contains(version), requirement
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["build-backend"]
        == "setuptools.build_meta"
    )
