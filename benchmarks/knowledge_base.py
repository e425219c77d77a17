"""Time and memory of building the knowledge base from tables and from the dump of the same generated entities.

    python -m benchmarks.knowledge_base --tables 1000000 2000000 4000000 10000000 --dumps 2000000

Each build is the command in a process of its own. The peak is that of the memory of all its processes together, what
they share counted once (PSS), looked at four times a second. Processor seconds are those of all processes: on a
machine that does other work too they tell more than the seconds that passed. Runs are added to those that the record
has, so that sizes can be measured on different days; entities once generated stay in `--folder`.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.evaluation_record import hardware, write_record
from benchmarks.generated_tables import write_dump, write_tables
from modeling_mofi.whole_files import try_read_json


POLL_SECONDS = 0.25


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, nargs="*", default=[1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--dumps", type=int, nargs="*", default=[2_000_000])
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--memory_gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/knowledge_base_benchmark"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/knowledge_base.json"))
    args = parser.parse_args()
    runs = (try_read_json(args.output) or {}).get("runs", {})
    for kind, sizes in (("tables", args.tables), ("dump", args.dumps)):
        for size in sizes:
            name = f"{kind}, {size:,} entities, {args.num_processes} processes, {args.memory_gigabytes:g} GB"
            runs[name] = measure(kind, size, args)
            write_record(args.output, {"runs": runs, "same_bytes": compare(runs)})
            print(json.dumps({name: runs[name]}, indent=2))


def measure(kind: str, size: int, args: argparse.Namespace) -> dict[str, object]:
    """Builds from tables or from a dump, which are generated if they are not there."""
    args.folder.mkdir(parents=True, exist_ok=True)
    source = args.folder / (f"tables-{size}" if kind == "tables" else f"dump-{size}.json.gz")
    if not source.exists():
        temporary = source.with_name(f"unfinished-{source.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        (write_tables if kind == "tables" else write_dump)(temporary, num_entities=size)
        temporary.rename(source)
    output = args.folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    flags = ["--num_processes", str(args.num_processes), "--memory_gigabytes", str(args.memory_gigabytes)]
    command = [sys.executable, "-m", "data_scripts.build_knowledge_base", "--source", str(source)]
    found = run_watched([*command, "--output_dir", str(output), "--min_sitelinks", "1", *flags], output)
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    found |= {"entities": manifest["counts"]["kept"], "source_gigabytes": size_of(source) / 1e9}
    found |= {"output_gigabytes": size_of(output) / 1e9, "content_hash": manifest["content_hash"]}
    shutil.rmtree(output)
    return found | {"hardware": hardware()}


def run_watched(command: list[str], output: Path) -> dict[str, float]:
    """Runs a command; the memory of its processes and the size of its output are watched."""
    before, started = processor_seconds(), time.monotonic()
    peak_memory = peak_disk = polls = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak_memory = max(peak_memory, sum(map(memory_of, processes_of(process.pid))))
            if polls % 20 == 0:
                peak_disk = max(peak_disk, size_of(output))
            polls += 1
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return {
        "seconds": time.monotonic() - started,
        "processor_seconds": processor_seconds() - before,
        "peak_memory_gigabytes": peak_memory / 1e6,
        "peak_disk_gigabytes": peak_disk / 1e9,
    }


def compare(runs: dict[str, dict]) -> dict[str, bool]:
    """By number of entities of which tables and the dump were built, whether both gave the same bytes."""
    hashes: dict[int, dict[str, str]] = {}
    for name, run in runs.items():
        hashes.setdefault(run["entities"], {})[name.partition(",")[0]] = run["content_hash"]
    return {f"{size:,}": len(set(found.values())) == 1 for size, found in hashes.items() if len(found) == 2}


def processor_seconds() -> float:
    """Of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processes_of(parent: int) -> list[int]:
    """A process and all that descend from it."""
    found = [parent]
    for process in found:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, read_text(children).split())
    return found


def memory_of(process: int) -> int:
    """Kilobytes of memory of a process, its share of what it shares with others; 0 if it has ended."""
    lines = read_text(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def read_text(path: Path) -> str:
    """A file of `/proc`; empty if its process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # It was renamed or deleted meanwhile.
            continue
    return total


if __name__ == "__main__":
    main()
