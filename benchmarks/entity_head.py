"""What a step of the entity head costs: by number of entities, beside dense AdamW, and in memory beside its plan.

    OMP_NUM_THREADS=1 python benchmarks/entity_head.py --device cpu

Each case runs in a process of its own: forward, backward and update of the sampled head at a fixed batch and sample.
It writes benchmarks/results/entity_head.json and .md.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from modeling_mofi.entity_head_mofi import MofiEntityHead
from modeling_mofi.recipe_parser import parse_recipe


ROOT = Path(__file__).parent.parent
MEGABYTE = 2**20


@dataclass
class HeadArguments:
    """Sizes to measure; the defaults suit two CPU cores."""

    num_entities: list[int] = field(default_factory=lambda: [200_000, 2_000_000])
    projection_dim: int = 128
    batch_size: int = 256
    num_sampled_entities: int = 16_384
    num_steps: int = 12
    device: str = "cpu"
    optimizer: str = field(default="sparse", metadata={"help": "sparse, or dense for AdamW over a dense gradient."})
    is_case: bool = field(default=False, metadata={"help": "Measure one case here and print it as JSON."})
    result: str = "benchmarks/results/entity_head"


def main() -> None:
    (args,) = parse_recipe(HeadArguments, description="Measures steps of the entity head.")
    if args.is_case:
        print(json.dumps(measure(args)))
        return
    cases = [run_case(args, num_entities, "sparse") for num_entities in args.num_entities]
    cases.append(run_case(args, max(args.num_entities), "dense"))
    document = {**circumstances(args), "cases": cases}
    path = ROOT / args.result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    print(markdown(document))


def run_case(args: HeadArguments, num_entities: int, optimizer: str) -> dict[str, float | int | str]:
    settings = {**asdict(args), "num_entities": num_entities, "optimizer": optimizer, "is_case": True}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    result = subprocess.run([sys.executable, __file__, *flags], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure(args: HeadArguments) -> dict[str, float | int | str]:
    """Median seconds of a step, and the peak of memory above what the process had before the head."""
    (num_entities,) = args.num_entities
    warm_up(args)
    before = peak_memory(args.device)
    head = MofiEntityHead(num_entities, args.projection_dim, num_sampled_entities=args.num_sampled_entities)
    head.to(args.device)
    dense = args.optimizer == "dense"
    optimizer = torch.optim.AdamW(head.parameters()) if dense else torch.optim.SparseAdam(head.parameters())
    seconds = [timed_step(head, optimizer, args, step, dense=dense) for step in range(args.num_steps)]
    return {
        "num_entities": num_entities,
        "optimizer": args.optimizer,
        "seconds_per_step": median(seconds[2:]),
        "peak_megabytes": (peak_memory(args.device) - before) / MEGABYTE,
        "planned_megabytes": sum(head.planned_bytes(batch_size=args.batch_size)) / MEGABYTE,
    }


def warm_up(args: HeadArguments) -> None:
    """Loads what the first step of any head loads, so that it is not counted as the head's."""
    head = MofiEntityHead(1000, args.projection_dim, num_sampled_entities=100).to(args.device)
    optimizer = torch.optim.SparseAdam(head.parameters())
    for step in range(2):
        timed_step(head, optimizer, args, step, dense=False)


def timed_step(
    head: MofiEntityHead, optimizer: torch.optim.Optimizer, args: HeadArguments, step: int, *, dense: bool
) -> float:
    generator = torch.Generator().manual_seed(step)
    embeds = F.normalize(torch.randn(args.batch_size, args.projection_dim, generator=generator), dim=-1)
    labels = torch.randint(head.num_entities, (args.batch_size,), generator=generator)
    embeds, labels = embeds.to(args.device).requires_grad_(), labels.to(args.device)
    head.sampling_step = step
    started = time.perf_counter()
    head(embeds, labels).backward()
    if dense:
        head.weight.grad = head.weight.grad.to_dense()
    optimizer.step()
    optimizer.zero_grad()
    if args.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_memory(device: str) -> int:
    """Most bytes that this process has held so far."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def circumstances(args: HeadArguments) -> dict[str, str | int]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", "benchmarks/entity_head.py", *sys.argv[1:]]),
        "hardware": torch.cuda.get_device_name() if args.device != "cpu" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "batch_size": args.batch_size,
        "num_sampled_entities": args.num_sampled_entities,
        "projection_dim": args.projection_dim,
    }


def markdown(document: dict) -> str:
    lines = ["| entities | optimizer | seconds per step | peak MB | planned MB |", "|---:|---|---:|---:|---:|"]
    for case in document["cases"]:
        numbers = f"{case['seconds_per_step']:.3f} | {case['peak_megabytes']:,.0f} | {case['planned_megabytes']:,.0f}"
        lines.append(f"| {case['num_entities']:,} | {case['optimizer']} | {numbers} |")
    notes = [f"- {name}: {value}" for name, value in document.items() if name != "cases"]
    return "\n".join([*lines, "", *notes]) + "\n"


if __name__ == "__main__":
    main()
