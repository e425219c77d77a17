"""The command of the package: `mofi build`, `mofi train` and so on, over the same functions as the scripts.

mofi train configs/train_b16.yaml --dataset my_i2e --output_dir my_mofi
accelerate launch -m mofi train configs/train_b16.yaml --dataset my_i2e --output_dir my_mofi
"""

import difflib
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        module: Has the `main` that runs it; a path is that of a script that comes with the package.
        extra: What to install for it, as in `pip install "mofi[data]"`; None if the package itself is enough.
        about: One line.
    """

    module: str
    extra: str | None
    about: str


COMMANDS = {
    "build-knowledge-base": Command("data_scripts.build_knowledge_base", "data", "entities and aliases from Wikidata"),
    "knowledge-base": Command("data_scripts.knowledge_base.look_up", "data", "what a knowledge base knows of a name"),
    "build": Command("data_scripts.build_i2e", "data", "an entity-labeled dataset (I2E) from images and alt-texts"),
    "train": Command("modeling_mofi.training.run", "train", "image and text towers, on I2E or on plain pairs"),
    "evaluate": Command("evaluate_mofi", "evaluate", "retrieval, recognition and naming, any encoders side by side"),
    "publish": Command("modeling_mofi.hub.publishing", None, "a checkpoint on the Hub, with its model card"),
    "convert": Command("modeling_mofi.hub.convert_apple", None, "Apple's release into a checkpoint"),
    "export-onnx": Command("modeling_mofi.hub.export_onnx", "onnx", "a checkpoint to ONNX"),
    "demo": Command("demo/app.py", "demo", "name, search and look at I2E in a browser"),
}


def main() -> None:
    """Runs the command that the first argument names; nothing heavy is imported before that."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name = arguments[0]
    if name not in COMMANDS and name != "--version":
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        sys.exit(
            f"error: mofi knows no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"\n{usage()}")
        )
    from modeling_mofi.user_errors import run_command

    if name == "--version":
        print(import_module("modeling_mofi").__version__)
        return
    command = COMMANDS[name]
    sys.argv = [f"mofi {name}", *arguments[1:]]
    run_command(lambda: find_main(command)(), extra=command.extra)


def find_main(command: Command) -> Callable[[], None]:
    """Imports what runs a command."""
    if not command.module.endswith(".py"):
        return import_module(command.module).main
    from modeling_mofi.bundled import bundled

    script = bundled(command.module)
    sys.path.insert(0, str(script.parent))  # As Python does for a script: the files beside it are imported by name.
    return runpy.run_path(str(script))["main"]


def usage() -> str:
    """What `mofi --help` prints."""
    lines = [f"  {name:22}{command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: mofi COMMAND [RECIPE.yaml ...] [--key value ...]", "", *lines, "", "mofi COMMAND --help says more."]
    )


if __name__ == "__main__":
    main()
