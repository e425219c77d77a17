"""Compares both phases of the data build of this checkout with those of another one, in turns on the same pairs.

    git worktree add ../before b4ef30a~1
    python -m benchmarks.data_before --other ../before

Each checkout builds again and again in a process of its own, on one thread. Compared are the processor's seconds from
what a build logs before a phase to what it logs after it: the statistics and links of generated texts without spaCy,
and 500 x 375 JPEGs under a small CLIP. Counted is the median of the ratios of neighboring turns, as other work on the
machine weighs on both; below 1 this checkout is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.evaluation_record import write_record
from benchmarks.generated_builds import encode_noise, write_clip, write_pairs


MODEL = {"hidden_size": 64, "num_layers": 2, "patch_size": 32}
SETTINGS = {"keep_fraction": "1.0", "min_images_per_entity": "1", "batch_size": "64", "num_statistics_texts": "100"}
PHASES = {"texts": "link_entities", "images": "score_entities"}
# Runs in either checkout: reads the flags of a build as a line of JSON, builds, and writes the seconds of its phases.
RUN = """
import json, logging, sys, time
from data_scripts.build_i2e import main
seconds, started = {}, 0.0
class Keep(logging.Handler):
    def emit(self, record):
        global started
        if str(record.msg).startswith(("plan:", "embed_entities:")):
            started = time.process_time()
        elif str(record.msg).startswith("%s took"):
            seconds[record.args[0].rpartition(" ")[2]] = time.process_time() - started
logging.getLogger().addHandler(Keep())
logging.getLogger().setLevel("INFO")
for line in sys.stdin:
    seconds.clear()
    try:
        main(json.loads(line))
    except (ValueError, SystemExit):
        pass  # The texts have no images: their build ends after its first phase.
    print(json.dumps(seconds), flush=True)
"""


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, help="Folder of the other checkout.")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/before"), help="Inputs, made if missing.")
    parser.add_argument("--num_texts", type=int, default=20_000)
    parser.add_argument("--num_images", type=int, default=300)
    parser.add_argument("--turns", type=int, default=6, help="How often each is measured, after one to warm up.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_before.json"))
    args = parser.parse_args()
    trees = {"this": str(Path(__file__).parents[1]), "other": str(Path(args.other).resolve())}
    inputs = write_inputs(args.folder.resolve(), trees, args)
    builders = {tree: start_builder(path) for tree, path in trees.items()}
    turns = []
    with tempfile.TemporaryDirectory(dir=args.folder) as outputs:
        for turn in range(args.turns + 1):
            folders = {tree: Path(outputs, f"{tree}-{turn}").resolve() for tree in trees}
            turns.append({tree: measure(builders[tree], folders[tree], inputs[tree]) for tree in trees})
    for builder in builders.values():
        builder.stdin.close()
        builder.wait()
    measured = {kind: compare(kind, turns[1:], getattr(args, f"num_{kind}")) for kind in PHASES}
    write_record(args.output, measured)
    print(json.dumps(measured, indent=2))


def write_inputs(folder: Path, trees: dict[str, str], args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Texts without images, texts with images, a model, and a knowledge base as each checkout builds it."""
    folder.mkdir(parents=True, exist_ok=True)
    for tree, path in trees.items():
        built = folder / f"kb-{tree}"
        flags = ["--source", "sample_data/entities.jsonl.gz", "--output_dir", str(built)]
        command = [sys.executable, "-m", "data_scripts.build_knowledge_base", *flags]
        if not built.is_dir():
            subprocess.run(command, env=environment(path), cwd=path, check=True)
    inputs = {"filter_model": write_clip(folder / "clip", **MODEL)}
    images = [encode_noise((500, 375), seed=seed) for seed in range(50)]
    sizes = {"texts": (args.num_texts, [b""]), "images": (args.num_images, images)}
    for kind, (num_pairs, content) in sizes.items():
        path = folder / f"{kind}.parquet"
        inputs[kind] = write_pairs(path, str(folder / "kb-this"), num_pairs=num_pairs, images=content)
    return {tree: inputs | {"knowledge_base": str(folder / f"kb-{tree}")} for tree in trees}


def environment(tree: str) -> dict[str, str]:
    """One thread, and the code of a checkout."""
    return os.environ | {"PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}


def start_builder(tree: str) -> subprocess.Popen:
    """A process that builds with the code of a checkout."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, "-c", RUN], env=environment(tree), cwd=tree, **pipes)


def measure(builder: subprocess.Popen, output: Path, inputs: dict[str, str]) -> dict[str, float]:
    """Seconds of both phases."""
    seconds = {}
    for kind, phase in PHASES.items():
        settings = SETTINGS | {"pairs": inputs[kind], "output_dir": str(output / kind)}
        settings |= {name: inputs[name] for name in ("filter_model", "knowledge_base")}
        builder.stdin.write(json.dumps([word for name in settings for word in (f"--{name}", settings[name])]) + "\n")
        builder.stdin.flush()
        seconds[kind] = json.loads(builder.stdout.readline())[phase]
    return seconds


def compare(kind: str, turns: list[dict[str, dict[str, float]]], num_rows: int) -> dict[str, object]:
    """Median seconds of a phase in each checkout, and the median of their ratios turn by turn."""
    ratios = [turn["this"][kind] / turn["other"][kind] for turn in turns]
    medians = {tree: statistics.median(turn[tree][kind] for turn in turns) for tree in turns[0]}
    return {"rows": num_rows, "seconds": medians, "ratio": round(statistics.median(ratios), 3), "ratios": ratios}


if __name__ == "__main__":
    main()
