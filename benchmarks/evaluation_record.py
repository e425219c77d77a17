"""Writes what a benchmark of the evaluation measured, with what is needed to repeat it."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from evaluation.results import installed_versions


def write_record(path: Path, measured: dict[str, Any]) -> None:
    """Writes `measured` with date, hardware, commit, command and versions."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "commit": commit,
        # Where somebody keeps a checkout is nobody else's concern.
        "command": " ".join(Path(arg).name if Path(arg).is_absolute() else arg for arg in sys.argv),
        "versions": {"python": platform.python_version(), **installed_versions()},
        **measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def provenance(record: Path) -> str:
    """How to repeat what a record says, as a list in Markdown."""
    document = json.loads(record.read_text(encoding="utf-8"))
    return "\n".join(f"- {key}: {document[key]}" for key in ("command", "commit", "hardware", "date"))


def hardware() -> str:
    """Name of the processor and of the GPU, if there is one."""
    names = [line.partition(":")[2].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = f"{len(names)} x {names[0]}" if names else platform.processor()
    return f"{processor}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else processor


def read_lines(path: str) -> list[str]:
    """Lines of a file; none where the system has no such file."""
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
