"""Fetches transformers' common model tests, of the version that is installed, and runs them on MOFI's classes.

    python -m benchmarks.common_model_tests

They come with the source distribution on PyPI, and nothing of them is kept. Needs `pip install parameterized`. What
passes, fails and is skipped goes to benchmarks/results/common_model_tests.json.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import transformers

from benchmarks.evaluation_record import write_record
from modeling_mofi.recipe_parser import parse_recipe


ROOT = Path(__file__).parent.parent
# Modules that the common tests import and the source distribution leaves out: tests of other things than models.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


@dataclass
class CommonTestsArguments:
    """Where the tests come from, and what to run."""

    archive: str | None = field(default=None, metadata={"help": "Source distribution; null to fetch it."})
    select: str = field(default="", metadata={"help": "As pytest's -k."})
    output: str = "benchmarks/results/common_model_tests.json"


class Counts:
    """Counts outcomes and keeps what failed, as a plugin of pytest."""

    def __init__(self) -> None:
        self.outcomes, self.failed = Counter[str](), []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.skipped or report.failed:
            self.outcomes[report.outcome] += 1
            self.failed += [report.nodeid.split("::", 1)[1]] if report.failed else []


def main() -> None:
    (args,) = parse_recipe(CommonTestsArguments, description="Runs transformers' common model tests.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = Path(args.archive) if args.archive else fetch(folder)
        unpack(archive, folder)
        sys.path.insert(0, str(folder))
        sys.modules.pop("tests", None)
        counts, cases = Counts(), str(ROOT / "benchmarks/common_model_cases.py")
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={folder}", "--import-mode=importlib"]
        options += ["-c", str(folder / "pytest.ini"), *(["-k", args.select] if args.select else [])]
        (folder / "pytest.ini").write_text("[pytest]\n")
        pytest.main([cases, *options], plugins=[counts])
    write_record(ROOT / args.output, {"outcomes": dict(counts.outcomes), "failed": sorted(counts.failed)})
    print(dict(counts.outcomes), *counts.failed, sep="\n")


def fetch(folder: Path) -> Path:
    """The source distribution of the installed version."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
    command += ["--no-build-isolation", "--dest", str(folder), f"transformers=={transformers.__version__}"]
    subprocess.run(command, check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> None:
    """Its common tests as the package `tests`."""
    tests = folder / "tests"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                tests.mkdir(exist_ok=True)
                (tests / parts[2]).write_bytes(tar.extractfile(member).read())
    for name, content in STUBS.items():
        (tests / name).parent.mkdir(exist_ok=True)
        (tests / name).write_text(content)
        (tests / name).with_name("__init__.py").touch()
    (tests / "__init__.py").touch()


if __name__ == "__main__":
    main()
