"""Files that come with the package: recipes, prompts, exclusions, the card's template, the demo."""

from importlib.resources import files
from pathlib import Path


def bundled(name: str) -> Path:
    """Path of a file or folder of the package, such as `configs`, wherever this was installed.

    Beside the package in a clone; in a wheel, setup.py has put it into the package.
    """
    package = Path(str(files("modeling_mofi")))
    inside = package / "bundle" / name
    return inside if inside.exists() else package.parent / name


def find_config(path: str, *, suffix: str = "") -> Path | None:
    """A file here, or else the one of that name that comes with the package; None if neither exists.

    A path into another folder than `configs` is never looked for in the package.

    Args:
        path: Such as `my/recipe.yaml`, `configs/train_b16.yaml`, `train_b16.yaml` or, with a suffix, `train_b16`.
        suffix: Appended to a name that has none.
    """
    given = Path(path)
    if given.is_file():
        return given
    name = given.name if given.suffix else f"{given.name}{suffix}"
    found = bundled("configs") / name
    return found if given.parent in (Path("."), Path("configs")) and found.is_file() else None
