"""What a step of the entity head costs: by number of entities, beside dense AdamW, and in memory beside its plan.

    OMP_NUM_THREADS=1 python benchmarks/entity_head.py --device cpu
    python benchmarks/entity_head.py --device cuda --projection_dim 512 --batch_size 4096 --with_full \\
        --num_sampled_entities 200000 --result benchmarks/results/entity_head_gpu

Each case runs in a process of its own: forward, backward and update of the sampled head at a fixed batch and sample.
--with_full adds the softmax over all entities, forward and backward, beside the three matrix products that it cannot
do without (logits, and the gradients of embeddings and rows), at the same precision on the same device. It writes
benchmarks/results/entity_head.json and .md.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from modeling_mofi import margin_softmax
from modeling_mofi.entity_head import MofiEntityHead
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
    tf32: bool = field(default=False, metadata={"help": "Let a GPU round the factors of matrix products to TF32."})
    precision: str | None = field(default=None, metadata={"help": "Of the head's products: fp32, tf32 or bf16."})
    with_full: bool = field(default=False, metadata={"help": "Also measure the softmax over all entities."})
    kind: str = field(default="sparse", metadata={"help": "sparse; dense: AdamW over a dense gradient; or full."})
    is_case: bool = field(default=False, metadata={"help": "Measure one case here and print it as JSON."})
    result: str = "benchmarks/results/entity_head"


def main() -> None:
    (args,) = parse_recipe(HeadArguments, description="Measures steps of the entity head.")
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    if args.is_case:
        print(json.dumps(measure_full(args) if args.kind == "full" else measure(args)))
        return
    cases = [run_case(args, num_entities, "sparse") for num_entities in args.num_entities]
    for kind in ("dense", *(["full"] if args.with_full else [])):
        cases.append(run_case(args, max(args.num_entities), kind))
    document = {**circumstances(args), "cases": cases}
    path = ROOT / args.result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    print(markdown(document))


def run_case(args: HeadArguments, num_entities: int, kind: str) -> dict[str, float | int | str]:
    settings = {**asdict(args), "num_entities": num_entities, "kind": kind, "is_case": True}
    flags = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    result = subprocess.run([sys.executable, __file__, *flags], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure(args: HeadArguments) -> dict[str, float | int | str]:
    """Median seconds of a step, and the peak of memory above what the process had before the head."""
    (num_entities,) = args.num_entities
    warm_up(args)
    before = start_measuring_memory(args.device)
    head = MofiEntityHead(num_entities, args.projection_dim, num_sampled_entities=args.num_sampled_entities)
    head.to(args.device)
    dense = args.kind == "dense"
    parameters = head.parameters()
    optimizer = torch.optim.AdamW(parameters, fused=True) if dense else torch.optim.SparseAdam(parameters)
    seconds = [timed_step(head, optimizer, args, step, dense=dense) for step in range(args.num_steps)]
    return {
        "num_entities": num_entities,
        "kind": args.kind,
        "seconds_per_step": median(seconds[2:]),
        "peak_megabytes": (peak_memory(args.device) - before) / MEGABYTE,
        "planned_megabytes": sum(head.planned_bytes(batch_size=args.batch_size)) / MEGABYTE,
    }


def measure_full(args: HeadArguments) -> dict[str, float | int | str]:
    """Median seconds of the softmax over all entities and of its three matrix products, taking turns."""
    (num_entities,) = args.num_entities
    head = MofiEntityHead(num_entities, args.projection_dim, precision=args.precision).to(args.device)
    embeds, labels = make_inputs(head, args, seed=0)
    seconds: dict[str, list[float]] = {"full": [], "products": []}
    for _ in range(args.num_steps):
        seconds["full"].append(timed(lambda: head(embeds, labels).backward(), args.device))
        head.weight.grad = embeds.grad = None
        seconds["products"].append(timed(lambda: multiply(head, embeds.detach()), args.device))
    full, products = (median(seconds[name][2:]) for name in ("full", "products"))
    sizes = {"num_entities": num_entities, "kind": "full", "precision": args.precision, "seconds_per_step": full}
    return {**sizes, "seconds_of_products": products, "ratio": full / products}


@torch.no_grad()
def multiply(head: MofiEntityHead, embeds: torch.Tensor) -> None:
    """The products of a softmax over all entities, by blocks of images and in the precision that the head has them."""
    gradient = torch.zeros_like(head.weight)
    rows = head.weight.bfloat16() if head.precision == "bf16" else head.weight
    with margin_softmax.matmul_precision(head.precision, rows.device):
        for block in embeds.to(rows.dtype).split(head.chunk_size(batch_size=len(embeds))):
            logits = margin_softmax.multiply(block, rows.t()).to(rows.dtype)
            margin_softmax.multiply(logits, rows)
            if head.precision == "bf16":
                gradient += margin_softmax.multiply(logits.t(), block)
            else:
                gradient.addmm_(logits.t(), block)


def timed(call: Callable[[], Any], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def make_inputs(head: MofiEntityHead, args: HeadArguments, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeds = F.normalize(torch.randn(args.batch_size, args.projection_dim, generator=generator), dim=-1)
    labels = torch.randint(head.num_entities, (args.batch_size,), generator=generator)
    return embeds.to(args.device).requires_grad_(), labels.to(args.device)


def warm_up(args: HeadArguments) -> None:
    """Loads what the first step of any head loads, so that it is not counted as the head's."""
    head = MofiEntityHead(1000, args.projection_dim, num_sampled_entities=100).to(args.device)
    optimizer = torch.optim.SparseAdam(head.parameters())
    for step in range(2):
        timed_step(head, optimizer, args, step, dense=False)


def timed_step(
    head: MofiEntityHead, optimizer: torch.optim.Optimizer, args: HeadArguments, step: int, *, dense: bool
) -> float:
    embeds, labels = make_inputs(head, args, seed=step)
    head.sampling_step = step

    def take() -> None:
        head(embeds, labels).backward()
        if dense:
            head.weight.grad = head.weight.grad.to_dense()
        optimizer.step()
        optimizer.zero_grad()

    return timed(take, args.device)


def start_measuring_memory(device: str) -> int:
    """Bytes that this process has held at most (CPU), or holds now, with its peak set back to them (GPU)."""
    if device == "cpu":
        return peak_memory(device)
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


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
        "tf32": args.tf32,
    }


def markdown(document: dict) -> str:
    lines = ["| entities | kind | seconds per step | peak MB | planned MB |", "|---:|---|---:|---:|---:|"]
    for case in document["cases"]:
        if case["kind"] == "full":
            note = f"{case['ratio']:.2f} x its three matrix products"
            lines.append(f"| {case['num_entities']:,} | all | {case['seconds_per_step']:.3f} | {note} | |")
            continue
        numbers = f"{case['seconds_per_step']:.3f} | {case['peak_megabytes']:,.0f} | {case['planned_megabytes']:,.0f}"
        lines.append(f"| {case['num_entities']:,} | {case['kind']} | {numbers} |")
    notes = [f"- {name}: {value}" for name, value in document.items() if name != "cases"]
    return "\n".join([*lines, "", *notes]) + "\n"


if __name__ == "__main__":
    main()
