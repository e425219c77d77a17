"""Hook of mkdocs: pages of the site that are not in `docs/`, so that each of them is written once.

README.md is the home page. CONTRIBUTING.md and the like, notebooks and `benchmarks/results/` are pages, and each room
of the code has a page of its docstrings.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "demo/README.md": "demo/README.md",
}
PACKAGES = ("modeling_mofi", "data_scripts", "evaluation", "metrics")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what stands elsewhere in the repository."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "benchmarks/results").rglob("*.*")):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    for package in PACKAGES:
        for room in [ROOT / package, *sorted(ROOT.glob(f"{package}/*/"))]:
            if modules(room):
                name = ".".join(room.relative_to(ROOT).parts)
                files.append(File.generated(config, f"reference/{name}.md", content=reference(name, modules(room))))
    return files


def notebook(path: Path) -> str:
    """The cells of a notebook as Markdown, and where it stands."""
    blocks = [f"*A notebook, `docs/notebooks/{path.name}`: run it as it is.*"]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source.replace(".ipynb)", ".md)"))
        else:
            language = "bash" if source.startswith("%%bash") else "python"
            blocks.append(f"```{language}\n{source.removeprefix('%%bash').strip()}\n```")
    blocks[0], blocks[1] = blocks[1], blocks[0]
    return "\n\n".join(blocks) + "\n"


def modules(room: Path) -> list[str]:
    """Names of a room's modules, as mkdocstrings finds them; the metrics, a folder each, share a page."""
    if room.name == "metrics":
        return [path.stem for path in sorted(room.glob("*/*.py"))]
    paths = [] if room.parent.name == "metrics" else sorted(room.glob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.name[0] != "_"]


def reference(room: str, names: list[str]) -> str:
    """A page that shows the docstrings of modules."""
    return f"# {room}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links as they work on GitHub become those of the site, whose root is `docs/`."""
    if page.file.src_uri.startswith(("reference/", "benchmarks/")):
        return markdown
    if not page.file.src_uri.startswith("notebooks/"):
        markdown = re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)
    for path, uri in PAGES.items():
        markdown = markdown.replace(f"]({path})", f"]({uri})")
    return markdown
