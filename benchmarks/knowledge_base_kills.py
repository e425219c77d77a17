"""Kills builds of the knowledge base at random moments, runs them to their end, and looks at what is left.

    python -m benchmarks.knowledge_base_kills

Builds with two processes, from the dump and from the tables of the same generated entities, get SIGKILL or SIGTERM in
turn at a random moment of their time; started again, they go on. What must hold: the finished knowledge base has the
bytes of one that was never killed, nothing else is left in its folder, and no process lives on.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data_kills import SIGNALS, Kills, kill_once, run_whole
from benchmarks.evaluation_record import write_record
from benchmarks.generated_tables import write_dump, write_tables


MODULE = "data_scripts.build_knowledge_base"


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_kills", type=int, default=30)
    parser.add_argument("--kills_per_build", type=int, default=5)
    parser.add_argument("--num_entities", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/knowledge_base_kills.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder / "tables", num_entities=args.num_entities)
        write_dump(folder / "dump.json.gz", num_entities=args.num_entities)
        measured = {}
        for source in ("tables", "dump.json.gz"):
            flags = ["--source", str(folder / source), "--num_processes", "2"]
            measured[source] = kill_builds(flags, folder / f"built-{source}", args)
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def kill_builds(flags: Sequence[str], folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Kills builds until half of the kills are done; compares each with one that was left alone."""
    kills, generator = Kills(), random.Random(0)
    started = time.monotonic()
    run_whole(flags, folder / "clean", module=MODULE)
    duration = time.monotonic() - started
    expected, num_same, num_builds = content_of(folder / "clean"), 0, 0
    while (done := sum(kills.number.values())) < args.num_kills // 2:
        output = folder / f"{num_builds}"
        target = min(done + args.kills_per_build, args.num_kills // 2)
        while (done := sum(kills.number.values())) < target:
            seconds = generator.uniform(0, duration)
            kill_once(flags, output, kills, SIGNALS[done % 2], seconds=seconds, module=MODULE)
            if (output / "manifest.json").exists():
                break  # It was through: the next kill is of another build.
        run_whole(flags, output, module=MODULE)
        num_builds += 1
        num_same += content_of(output) == expected
    return {
        "seconds_of_a_build": duration,
        "kills": kills.number,
        "exit_statuses_after_sigterm": sorted(kills.statuses),
        "longest_seconds_to_the_end_of_all_processes": kills.seconds_to_end,
        "processes_left": kills.processes_left,
        "builds": num_builds,
        "builds_with_the_same_files_and_bytes": num_same,
    }


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
