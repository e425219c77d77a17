"""Versions that stand in several files agree, and workflows run nothing but targets of the Makefile."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture
def metadata(monkeypatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    captured: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: captured.update(settings))
    path = ROOT / "setup.py"
    exec(compile(path.read_text(), str(path), "exec"), {"__file__": str(path)})
    return captured


def pinned(name: str) -> dict[str, str]:
    """Versions of a constraints file by library."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(metadata: dict[str, Any], *, without: tuple[str, ...] = ()) -> list[Requirement]:
    extras = [lines for extra, lines in metadata["extras_require"].items() if extra not in without]
    return [Requirement(line) for lines in (metadata["install_requires"], *extras) for line in lines]


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step | {"matrix": job.get("strategy", {}).get("matrix", {})} for job in jobs for step in job["steps"]]


def test_lowest_versions_are_the_lower_bounds(metadata):
    bounds = {
        requirement.name: clause.version
        for requirement in requirements(metadata, without=("docs",))
        for clause in requirement.specifier
        if clause.operator == ">="
    }
    bounds["ray"] = bounds.pop("ray[data]", bounds.get("ray"))
    lowest = pinned("constraints-lowest.txt")
    assert lowest.keys() == bounds.keys()
    for name, version in lowest.items():
        assert version in Requirement(f"{name}=={bounds[name]}").specifier, name


def test_one_library_has_one_range_in_all_extras(metadata):
    ranges: dict[str, set[str]] = {}
    for requirement in requirements(metadata):
        ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_of_the_makefile_alone(workflow):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(workflow):
        if "run" in step:
            command = step["run"]
            for name, values in step["matrix"].items():
                command = command.replace("${{ matrix." + name + " }}", " ".join(values))
            assert command.startswith("make ") and set(command.split()[1:]) <= targets, command


def test_every_python_of_the_classifiers_is_tested(metadata):
    named = [line.rpartition(" ")[2] for line in metadata["classifiers"] if ":: Python :: 3." in line]
    tests = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["tests"]
    assert named == tests["strategy"]["matrix"]["python-version"]
    assert metadata["python_requires"] == f">={named[0]}"


def test_pre_commit_has_the_ruff_of_the_constraints():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {line for hook in hooks for line in hook["additional_dependencies"]} == {
        f"ruff=={pinned('constraints.txt')['ruff']}"
    }


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'__version__ = "{citation["version"]}"' in (ROOT / "modeling_mofi/__init__.py").read_text()
    assert citation["preferred-citation"]["title"].startswith("MOFI:")
