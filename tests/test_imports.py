"""Who may import whom, and that the package needs nothing beyond torch, transformers and Pillow."""

import ast
import subprocess
import sys
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


def test_package_imports_itself_relatively_and_flat():
    for path in files_of("modeling_mofi"):
        own = [name for name in imports(path) if name.startswith(".") or name.split(".")[0] == "modeling_mofi"]
        assert all(name.startswith(".") and name.count(".") == 1 for name in own), path.name


@pytest.mark.parametrize("name", shipped_files())
def test_published_file_needs_only_torch_transformers_and_what_they_need(name):
    modules = {module.split(".")[0] for module in imports(ROOT / "modeling_mofi" / f"{name}.py")} - {""}
    assert modules - set(sys.stdlib_module_names) <= PUBLISHED_NEEDS


def test_stages_know_no_engine_and_engines_no_stage():
    stages = [path for path in files_of("data_scripts") if path.stem in STAGES]
    assert stages
    for path in stages:
        assert not {name for name in imports(path) if "engine" in name}, path.name
    for path in files_of("data_scripts"):
        if "engine" in path.stem:
            assert not {name.split(".")[-1] for name in imports(path)} & set(STAGES), path.name


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
