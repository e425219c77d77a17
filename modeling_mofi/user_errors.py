"""How every command ends that its user made a mistake in: one line, exit status 1, no traceback."""

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires
from typing import Any


# What the project raises for settings, files, rights, the network and values that are not finite.
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
# If set, the traceback is shown, for debugging.
SHOW_TRACEBACK = "MOFI_TRACEBACK"
# Packages whose name is not that of the module.
DISTRIBUTIONS = {"faiss": "faiss-cpu", "optimum": "optimum-quanto", "sklearn": "scikit-learn", "yaml": "pyyaml"}
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells count.


def run_command(main: Callable[[], Any], *, extra: str | None = None) -> None:
    """Runs a command's `main`.

    Args:
        extra: The extra that this command belongs to, asked for first where a module is missing.

    Raises:
        SystemExit: With `error: ...`, which ends the program with status 1.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (*USER_ERRORS, *transport_errors()) as error:
        if os.environ.get(SHOW_TRACEBACK):
            raise
        hint = missing_extra(error, extra) if isinstance(error, ModuleNotFoundError) else ""
        if isinstance(error, transport_errors()):
            hint = f" ({type(error).__name__}): no answer came. Check the network, HF_HUB_OFFLINE and HF_ENDPOINT."
        # Messages of libraries have line breaks.
        sys.exit("error: " + " ".join(f"{str(error) or type(error).__name__}{hint}".split()))


def transport_errors() -> tuple[type[Exception], ...]:
    """What the libraries that huggingface_hub talks with raise where no answer comes, if they are loaded."""
    loaded = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
    return tuple(library.TransportError for library in loaded)


def missing_extra(error: ModuleNotFoundError, extra: str | None) -> str:
    """Names the extra that brings a missing module; nothing for a module of none."""
    module = (error.name or "").split(".")[0]
    wanted = DISTRIBUTIONS.get(module, module).replace("_", "-")
    try:
        lines = requires("mofi") or []
    except PackageNotFoundError:
        lines = []
    found = [
        match[2]
        for line in lines
        if (match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line))
        and match[1].lower().replace("_", "-") == wanted
    ]
    if not found:
        return ""
    return f'. Install what it belongs to: pip install "mofi[{extra if extra in found else found[0]}]"'
