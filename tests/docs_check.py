"""Runs the commands, snippets and notebooks of README.md and docs/, page by page from top to bottom, on tiny data.

    python tests/docs_check.py [docs/use.md ...]

The examples of docstrings are run too, each module with some as a page.

Each page gets a folder of its own with a link to everything of this repository, and what pages take as given (see
`docs_workspace`). The Hub is `hub_server`. What is run otherwise than it stands there, or not at all, is declared
below; a declaration that no page needs is an error.
"""

import contextlib
import doctest
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter
from pathlib import Path

from hub_server import TOKEN, running_hub


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCES = [
    path for package in ("modeling_mofi", "data_scripts", "evaluation") for path in (ROOT / package).rglob("*.py")
]
EXAMPLES = sorted(path for path in SOURCES if ">>>" in path.read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.rglob("*.ipynb")), *EXAMPLES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TIMEOUT_SECONDS = 900
# Not run, by what the command begins with, and why.
SKIPPED = {
    "python -m data_scripts.build_knowledge_base --source hub": "fetches gigabytes from the Hub",
    "make ": "runs for minutes, and is checked by being run itself",
    "pip install": "the environment that this runs in was made by it",
    "python -m spacy download": "fetches spaCy's model, which is installed here",
    'model = MofiModel.from_towers("facebook/dinov3': "loads two encoders of the Hub",
    "python evaluate_mofi.py configs/eval_paper.yaml": "reads gigabytes of datasets on the Hub",
    "python evaluate_mofi.py configs/eval_vtab.yaml": "reads gigabytes of datasets on the Hub",
    "mofi evaluate --suite retrieval": "reads gigabytes of datasets on the Hub",
    "python evaluate_mofi.py --model runs/sample/mofi --task entity_recognition": "asks for a list of the reader",
    "hf auth login": "asks for a token; here it is in HF_TOKEN",
}
# Run otherwise: smaller. Recipes given later win over those before, flags over recipes.
REPLACED = {
    r"(train\.py(?: configs/train_\S+\.yaml)+)": r"\1 tiny_train.yaml",
    r"(train\.py configs/finetune\w*\.yaml)": r"\1 tiny_finetune.yaml",
    r'eval_dataset="my_i2e"': 'eval_dataset="my_i2e/data/train-*.parquet"',
    r"per_device_train_batch_size=256": "per_device_train_batch_size=4, max_steps=2, use_cpu=True",
    r"^accelerate launch ": "accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --cpu ",
    r"(data_scripts\.build_i2e configs/build_i2e\.yaml)": r"\1 tiny_build.yaml",
    r"(mofi build configs/build_i2e\.yaml)": r"\1 tiny_build.yaml",
    r"(mofi train configs/train_b16\.yaml)": r"\1 tiny_train.yaml",
    r"(data_scripts\.build_i2e configs/build_sample\.yaml)": r"\1 tiny_sample_build.yaml",
}

# What a page takes from the page before it.
MY_I2E = {"my_i2e": "runs/sample/i2e"}
GIVEN = {"docs/train.md": MY_I2E, "docs/notebooks/train_in_python.ipynb": MY_I2E}


class Page:
    """One page's commands and snippets, run in order in the current folder."""

    def __init__(self, path: Path):
        self.path, self.names, self.used = path, {"__name__": "__main__"}, Counter()

    def run(self) -> None:
        if self.path.suffix == ".md":
            self.run_blocks()
        elif self.path.suffix == ".ipynb":
            self.run_notebook()
        else:
            self.run_examples()

    def run_blocks(self) -> None:
        for language, code in BLOCK.findall(self.path.read_text(encoding="utf-8")):
            if language == "python":
                self.run_snippet(code)
            elif language in ("", "bash", "sh"):
                for command in commands(code):
                    self.run_command(command)

    def run_snippet(self, code: str) -> None:
        print(f"  snippet of {code.count(chr(10))} lines", flush=True)
        exec(compile(self.replaced(code), str(self.path), "exec"), self.names)
        self.used["snippets"] += 1

    def run_command(self, command: str) -> None:
        if self.is_skipped(command):
            return
        command = self.replaced(command)
        print(f"  $ {command}", flush=True)
        serve(command) if "demo/app.py" in command else finish(command)
        self.used["commands"] += 1

    def is_skipped(self, command: str) -> bool:
        for start, reason in SKIPPED.items():
            if command.startswith(start):
                print(f"  skipped ({reason}): {command}", flush=True)
                self.used[start] += 1
                return True
        return False

    def replaced(self, command: str) -> str:
        for pattern, replacement in REPLACED.items():
            command, count = re.subn(pattern, replacement, command)
            self.used[pattern] += count
        return command

    def run_notebook(self) -> None:
        """Runs all cells in a kernel of their own; a cell that raises ends the run with its traceback."""
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.read(self.path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell in cells:
            cell.source = self.replaced(cell.source)
        NotebookClient(notebook, timeout=TIMEOUT_SECONDS, kernel_name="python3").execute()
        print(f"  {len(cells)} cells", flush=True)
        self.used["snippets"] += len(cells)

    def run_examples(self) -> None:
        """Runs the examples of a module's docstrings, which take `image` and `processor` as given."""
        from PIL import Image

        from modeling_mofi import MofiProcessor

        name = ".".join(self.path.relative_to(ROOT).with_suffix("").parts)
        given = {"image": Image.open("flag.png"), "processor": MofiProcessor.from_pretrained("runs/sample/mofi")}
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
            docstring = re.sub(r"^ *```.*$", "", test.docstring or "", flags=re.MULTILINE)  # No expected output.
            examples = doctest.DocTestParser().get_examples(docstring)
            test.examples = [example for example in examples if not self.is_skipped(example.source)]
            test.globs |= given
            runner.run(test)
            self.used["snippets"] += bool(test.examples)
        if runner.failures:
            raise RuntimeError(f"{runner.failures} examples of {name} fail")


def commands(code: str) -> list[str]:
    """The commands of a block: lines, joined where they end with a backslash, without comments."""
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def finish(command: str) -> None:
    """Runs a command to its end."""
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if result.returncode:
        raise RuntimeError(f"`{command}` ended with {result.returncode}:\n{(result.stdout + result.stderr)[-3000:]}")


def serve(command: str, *, port: int = 7860) -> None:
    """Runs a command that serves a page, until the page has come."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, shell=True, stdout=output, stderr=output, start_new_session=True)
        try:
            for _ in range(TIMEOUT_SECONDS):
                time.sleep(1)
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
                    assert answer.status == 200
                    return
                if process.poll() is not None:
                    break
            output.seek(0)
            raise RuntimeError(f"`{command}` shows no page:\n{output.read()[-3000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def run_page(path: Path) -> None:
    """Runs one page here, in a process of its own, and prints what was used as its last line."""
    page = Page(path)
    sys.path.insert(0, str(ROOT))
    try:
        page.run()
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    print(f"{page.used['commands']} commands and {page.used['snippets']} snippets ran")
    print(json.dumps(page.used))


def check(pages: list[Path]) -> int:
    """Runs pages, each in a fresh workspace; returns how many failed."""
    sys.path.insert(0, str(ROOT))  # Before this folder, which has a `modeling_mofi` too.
    from docs_workspace import fill_hub, prepare

    failed, used = [], Counter()
    with tempfile.TemporaryDirectory() as temporary, running_hub() as hub:
        prepared = Path(temporary) / "prepared"
        prepare(prepared, ROOT)
        for path in pages:
            name = str(path.relative_to(ROOT))
            print(name, flush=True)
            workspace = shutil.copytree(prepared, Path(temporary) / path.stem, symlinks=True)
            for given, own in GIVEN.get(name, {}).items():
                (workspace / given).symlink_to(workspace / own)
            hub.files.clear()
            fill_hub(hub, prepared)
            process = subprocess.Popen(
                [sys.executable, __file__, "--page", str(path)],
                cwd=workspace,
                env=environment(hub.url, Path(temporary) / f"home-{path.stem}"),
                stdout=subprocess.PIPE,
                text=True,
            )
            output = io.StringIO()
            for line in process.stdout:
                output.write(line)
                print(line, end="", flush=True) if not line.startswith("{") else None
            if process.wait():
                failed.append(name)
            else:
                used.update(json.loads(output.getvalue().splitlines()[-1]))
    unused = [name for name in (*SKIPPED, *REPLACED) if not used[name]] if pages == PAGES and not failed else []
    print(f"failed: {', '.join(failed) or 'none'}" + (f"; declared for nothing: {unused}" if unused else ""))
    return len(failed) + len(unused)


def environment(hub_url: str, home: Path) -> dict[str, str]:
    """Variables of a page's processes: the Hub is the local one, and nothing of the user's caches is seen."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    hub = {"HF_ENDPOINT": hub_url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
    return kept | hub | {"PATH": path, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--page"]:
        run_page(Path(sys.argv[2]))
    else:
        chosen = [Path(name).resolve() for name in sys.argv[1:]]
        raise SystemExit(1 if check(chosen or PAGES) else 0)
