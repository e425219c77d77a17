"""Who may import whom, how large a file may be, and that the package needs only torch, transformers and Pillow."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PARTS = ("modeling_mofi", "data_scripts", "evaluation", "metrics", "benchmarks", "demo", "train", "evaluate_mofi")
# What each part may import of the project besides itself. `benchmarks` runs whole chains and may use any part.
ALLOWED = {
    "modeling_mofi": set(),
    "data_scripts": {"modeling_mofi"},
    "train": {"modeling_mofi"},
    "evaluation": {"modeling_mofi", "metrics"},
    "evaluate_mofi": {"modeling_mofi", "evaluation"},
    "metrics": set(),
    "demo": {"modeling_mofi"},
}
# What a published checkpoint takes along, and all that those files may import.
PUBLISHED = ("configuration_mofi", "modeling_mofi", "image_processing_mofi", "processing_mofi")
PUBLISHED_NEEDS = {"torch", "transformers", "safetensors", "numpy", "PIL"}
# What each room may import of its own part; the files beside the rooms that are not named here import what they like.
FLAT = ("configuration_mofi", "modeling_mofi", "image_processing_mofi", "processing_mofi", "losses_mofi")
FLAT += ("image_modes_mofi", "distributed_mofi", "pretrained_mofi", "towers_mofi", "single_towers_mofi")
FLAT += ("sharded_rows", "bundled", "recipe_parser", "user_errors", "whole_files")
ROOMS = {
    "modeling_mofi": {
        "data": FLAT,
        "hub": FLAT,
        "search": (*FLAT, "auto", "data", "hub"),
        "training": (*FLAT, "auto", "pretraining", "entity_head", "patch_dropout", "data", "hub"),
    },
    "data_scripts": {
        "schema": (),
        "arguments": (),
        "text": (),
        "engine": ("schema",),
        "sources": ("schema", "arguments", "engine"),
        "knowledge_base": ("schema", "engine", "text"),
        "linking": ("schema", "engine", "text", "knowledge_base"),
        "images": ("schema", "engine", "knowledge_base"),
        "labels": ("schema", "arguments", "engine", "knowledge_base"),
        "phases": ("schema", "arguments", "engine", "sources", "knowledge_base", "linking", "images", "labels"),
        "report": ("schema", "engine", "text", "sources", "knowledge_base", "linking", "images", "labels", "phases"),
    },
}
STAGES = (
    "recognize_mentions",
    "link_entities",
    "filter_entities",
    "score_entities",
    "label_entities",
    "decode_images",
)
BLOCKED = (
    *("accelerate", "datasets", "evaluate", "faiss", "gradio", "marisa_trie", "matplotlib", "onnx", "pandas", "peft"),
    *("pyarrow", "ray", "scipy", "sklearn", "spacy", "tensorboard", "torchvision", "yaml_include"),
)


MAX_LINES_OF_FILE, MAX_LINES_OF_FUNCTION = 350, 60
# Rooms of a build whose workers start without torch, which takes seconds.
LIGHT_ROOMS = ("text", "engine", "sources", "knowledge_base", "linking")


def files_of(part):
    return [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").is_file() else sorted((ROOT / part).rglob("*.py"))


def imports(path):
    """Dotted names of the modules that a file imports, relative ones as `.name`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def shipped_files():
    """Names of the files that `save_pretrained` copies: the published ones and all they import relatively."""
    names, waiting = set(), list(PUBLISHED)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            found = imports(ROOT / "modeling_mofi" / f"{name}.py")
            waiting += [module[1:] for module in found if module.startswith(".")]
    return sorted(names)


@pytest.mark.parametrize("part", ALLOWED)
def test_part_imports_only_what_it_may(part):
    for path in files_of(part):
        used = {name.split(".")[0] for name in imports(path)} & set(PARTS) - {part}
        assert used <= ALLOWED[part], f"{path.relative_to(ROOT)} imports {sorted(used - ALLOWED[part])}"


def test_package_imports_itself_relatively():
    for path in files_of("modeling_mofi"):
        assert not [name for name in imports(path) if name.split(".")[0] == "modeling_mofi"], path.name


def test_the_suffix_mofi_names_exactly_what_a_checkpoint_carries():
    named = {path.stem for path in files_of("modeling_mofi") if path.stem.endswith("_mofi")}
    assert named == set(shipped_files())


def room_of(part, path):
    """Name of the folder that a file lies in; the file's own name where that is the part itself."""
    return path.parent.name if path.parent != ROOT / part else path.stem


def rooms_imported(part, path):
    """Rooms, and files that lie in no room, of the same part that a file imports."""
    here = [part, *path.parent.relative_to(ROOT / part).parts]
    for name in imports(path):
        level = len(name) - len(name.lstrip("."))
        parts = name.lstrip(".").split(".")
        if level:
            parts = [*here[: len(here) - level + 1], *parts]
        if parts[0] == part and len(parts) > 1:
            yield parts[1]


@pytest.mark.parametrize("part", ROOMS)
def test_room_imports_only_what_it_may(part):
    for path in files_of(part):
        room = room_of(part, path)
        if room in ROOMS[part]:
            wrong = set(rooms_imported(part, path)) - set(ROOMS[part][room]) - {room}
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("part", ROOMS)
def test_every_room_has_its_arrows_and_none_runs_in_a_circle(part):
    assert {path.parent.name for path in (ROOT / part).glob("*/*.py")} <= set(ROOMS[part])
    TopologicalSorter(ROOMS[part]).prepare()


@pytest.mark.parametrize("name", shipped_files())
def test_published_file_needs_only_torch_transformers_and_what_they_need(name):
    modules = {module.split(".")[0] for module in imports(ROOT / "modeling_mofi" / f"{name}.py")} - {""}
    assert modules - set(sys.stdlib_module_names) <= PUBLISHED_NEEDS


def test_stages_know_no_engine_and_engines_no_stage():
    stages = [path for path in files_of("data_scripts") if path.stem in STAGES]
    assert stages
    for path in stages:
        used = {name for name in imports(path) if name.startswith("data_scripts.engine")}
        assert used <= {"data_scripts.engine.files"}, path.name
    for path in files_of("data_scripts"):
        if path.parent.name == "engine":
            assert not {name.split(".")[-1] for name in imports(path)} & set(STAGES), path.name


@pytest.mark.parametrize("part", [*PARTS, "tests"])
def test_files_and_functions_stay_small(part):
    for path in files_of(part):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_LINES_OF_FILE, path.relative_to(ROOT)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                num_lines = node.end_lineno - node.lineno + 1
                assert num_lines <= MAX_LINES_OF_FUNCTION, f"{path.relative_to(ROOT)}: {node.name}"


def test_texts_and_knowledge_bases_need_no_torch():
    files = [path for room in LIGHT_ROOMS for path in files_of(f"data_scripts/{room}")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"]
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    assert "torch" not in sys.modules, module
import modeling_mofi
assert "torch" not in sys.modules
from transformers import AutoConfig
assert AutoConfig.for_model(modeling_mofi.MofiConfig.model_type).model_type == "mofi"
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=280)


def test_package_imports_without_its_extras():
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import modeling_mofi, torch
from transformers import AutoModel
model = AutoModel.from_config(modeling_mofi.MofiConfig(
    vision_config={{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}},
    text_config={{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}}))
pixels = modeling_mofi.MofiImageProcessor()(torch.zeros(3, 9, 9, dtype=torch.uint8), return_tensors="pt")
print(tuple(model(**pixels).image_embeds.shape))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.stdout.strip() == "(1, 512)", result.stderr
