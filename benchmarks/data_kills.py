"""Kills builds with two processes at random moments, runs them to their end, and looks at what is left.

    python -m benchmarks.data_kills

A build is started as a command and gets SIGKILL or SIGTERM, in turn, at a random moment of its time; started again, it
goes on. What must hold: no process of it is left a few seconds later, the finished build has the bytes of one that was
never killed, and no temporary file stays.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import build_sample_knowledge_base, encode_noise, write_clip, write_pairs


SIGNALS = (signal.SIGKILL, signal.SIGTERM)
BUILD = "data_scripts.build_i2e"
MARK = "MOFI_KILLED_BUILD"  # In the environment of every process that a build starts, and of theirs.
PATIENCE_SECONDS = 10.0


@dataclass
class Kills:
    """What became of a number of kills.

    Attributes:
        number: Kills of a build that was running, by signal.
        statuses: Exit statuses after SIGTERM.
        seconds_to_end: From the signal to the end of the last process, by signal; the longest.
        processes_left: Commands of the processes that were there after `PATIENCE_SECONDS`.
    """

    number: dict[str, int] = field(default_factory=lambda: {kind.name: 0 for kind in SIGNALS})
    statuses: set[int] = field(default_factory=set)
    seconds_to_end: dict[str, float] = field(default_factory=lambda: {kind.name: 0.0 for kind in SIGNALS})
    processes_left: list[str] = field(default_factory=list)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_kills", type=int, default=40)
    parser.add_argument("--kills_per_build", type=int, default=10)
    parser.add_argument("--num_pairs", type=int, default=1_200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_kills.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        knowledge_base = build_sample_knowledge_base(folder)
        images = [encode_noise((64, 64), seed=seed) for seed in range(100)]
        pairs = write_pairs(folder / "pairs.parquet", knowledge_base, num_pairs=args.num_pairs, images=images)
        clip = write_clip(folder / "clip", hidden_size=64, num_layers=2, image_size=32)
        settings = {"pairs": pairs, "knowledge_base": knowledge_base, "filter_model": clip, "keep_fraction": 0.9}
        settings |= {"rows_per_shard": 60, "batch_size": 64, "min_images_per_entity": 1, "num_processes": 2}
        flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        measured = kill_builds(flags, folder, num_kills=args.num_kills, kills_per_build=args.kills_per_build)
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def kill_builds(flags: Sequence[str], folder: Path, *, num_kills: int, kills_per_build: int) -> dict[str, object]:
    """Kills builds until there are so many kills; compares each build that was run to its end with one left alone."""
    kills, generator = Kills(), random.Random(0)
    clean = folder / "clean" / "i2e"
    started = time.monotonic()
    run_whole(flags, clean)
    duration = time.monotonic() - started
    expected, num_same, num_builds, num_temporary = content_of(clean), 0, 0, 0
    while sum(kills.number.values()) < num_kills:
        output = folder / f"{num_builds}" / "i2e"
        target = min(sum(kills.number.values()) + kills_per_build, num_kills)
        while (done := sum(kills.number.values())) < target:
            kill_once(flags, output, kills, SIGNALS[done % 2], seconds=generator.uniform(0, duration))
        run_whole(flags, output)
        num_builds += 1
        num_same += content_of(output) == expected
        num_temporary += len(list(output.rglob("*.tmp.*")))
    return {
        "seconds_of_a_build": duration,
        "kills": kills.number,
        "exit_statuses_after_sigterm": sorted(kills.statuses),
        "longest_seconds_to_the_end_of_all_processes": kills.seconds_to_end,
        "processes_left": kills.processes_left,
        "builds": num_builds,
        "builds_with_the_same_bytes": num_same,
        "temporary_files_left": num_temporary,
    }


def start(flags: Sequence[str], output: Path, *, module: str = BUILD) -> tuple[subprocess.Popen, str]:
    """Starts a build; returns it and the mark of its processes."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", module, *flags, "--output_dir", str(output)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {MARK: mark}, **streams), mark


def run_whole(flags: Sequence[str], output: Path, *, module: str = BUILD) -> None:
    """Runs a build to its end."""
    build, _ = start(flags, output, module=module)
    if build.wait() != 0:
        raise RuntimeError(f"the build in {output} ended with status {build.returncode}")


def kill_once(
    flags: Sequence[str], output: Path, kills: Kills, kind: signal.Signals, *, seconds: float, module: str = BUILD
) -> None:
    """Starts a build, kills it after a while if it is not through, and waits for the end of its processes."""
    build, mark = start(flags, output, module=module)
    try:
        build.wait(timeout=seconds)
        return
    except subprocess.TimeoutExpired:
        build.send_signal(kind)
    sent = time.monotonic()
    build.wait()
    while (left := processes_with(mark)) and time.monotonic() - sent < PATIENCE_SECONDS:
        time.sleep(0.05)
    kills.number[kind.name] += 1
    kills.seconds_to_end[kind.name] = max(kills.seconds_to_end[kind.name], time.monotonic() - sent)
    kills.processes_left += map(command_of, left)
    if kind == signal.SIGTERM:
        kills.statuses.add(build.returncode)
    for process in left:
        os.kill(process, signal.SIGKILL)


def processes_with(mark: str) -> list[int]:
    """Ids of the living processes that were started with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = mark.encode() in (folder / "environ").read_bytes()
            if is_ours and ") Z " not in (folder / "stat").read_text():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def command_of(process: int) -> str:
    """How a process was started, in short."""
    return Path("/proc", str(process), "cmdline").read_text().replace("\0", " ")[:120]


def content_of(output: Path) -> dict[str, bytes]:
    """Everything that is published, and what the stages left."""
    names = ("data/*.parquet", "entities.parquet", "README.md", "stages/*/*.json", "stages/*/*.parquet")
    return {str(path.relative_to(output)): path.read_bytes() for name in names for path in sorted(output.glob(name))}


if __name__ == "__main__":
    main()
