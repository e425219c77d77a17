"""Commands and snippets of the docs name files, modules, flags and classes that exist."""

import ast
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments


ROOT = Path(__file__).parents[1]
ROOT_PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "model_card")]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Files whose dataclass fields or arguments are the flags of a command.
FLAG_FILES = {
    "train.py": [f"modeling_mofi/training/{name}.py" for name in ("run", "arguments", "model_building")],
    "evaluate_mofi.py": ["evaluate_mofi.py", "evaluation/benchmark.py"],
    "data_scripts/build_i2e.py": ["data_scripts/arguments.py"],
}
# What the commands of `mofi` run.
SCRIPTS = {
    "build": "data_scripts/build_i2e.py",
    "build-knowledge-base": "data_scripts/build_knowledge_base.py",
    "train": "train.py",
    "evaluate": "evaluate_mofi.py",
    "publish": "modeling_mofi/hub/publishing.py",
    "convert": "modeling_mofi/hub/convert_apple.py",
    "export-onnx": "modeling_mofi/hub/export_onnx.py",
}
NEEDS_NO_PACKAGE = ("modeling_mofi", "transformers", "torch", "PIL")


def blocks(language):
    """(page, block) of all code blocks of one language."""
    return [
        pytest.param(code, id=f"{page.stem}-{place}")
        for page in PAGES
        for place, (kind, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if kind == language
    ]


def commands(code):
    """Words of each command of this project in a block."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.startswith(("python ", "accelerate ", "mofi ")) else []
        if words[:2] == ["accelerate", "launch"]:
            yield words[2:]
        elif words[:2] == ["python", "-m"] and words[2].startswith(("data_scripts.", "modeling_mofi.", "benchmarks.")):
            yield [words[2].replace(".", "/") + ".py", *words[3:]]
        elif words[:1] == ["mofi"] and words[1] in SCRIPTS:
            yield [SCRIPTS[words[1]], *words[2:]]
        elif words[:1] == ["python"] and words[1] not in ("-c", "-m"):
            yield words[1:]


def known_flags(script):
    """Names of the flags that a script understands."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in FLAG_FILES.get(script, [script]))
    flags = set(re.findall(r'"--(\w+)"', text)) | set(re.findall(r"^    (\w+):", text, re.MULTILINE)) | {"help"}
    return flags | ({field.name for field in fields(TrainingArguments)} if script == "train.py" else set())


@pytest.mark.parametrize("code", blocks(""))
def test_commands_name_scripts_flags_and_files_that_exist(code):
    for script, *words in commands(code):
        assert (ROOT / script).is_file(), script
        used = {word[2:] for word in words if word.startswith("--")}
        assert used <= known_flags(script), f"{script} knows no {used - known_flags(script)}"
        for word in words:
            if word.startswith(("configs/", "sample_data/")):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("code", blocks("python"))
def test_snippets_are_python_and_import_what_exists(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in NEEDS_NO_PACKAGE:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), node.module


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(((?!http|#)[^){]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target.split("#")[0]).exists(), target
