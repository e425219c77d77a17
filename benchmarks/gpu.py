"""Measures on a GPU, in one command of less than ten minutes, what a CPU cannot say of training.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --small    # the same on a CPU, of no meaning: what the tests run

It writes benchmarks/results/gpu.json: ViT-B/16 beside open_clip, both losses with two million entities beside contrast
alone, the softmax over all entities beside its three products, by precision, the share of a step that waits for
images, and the head's memory beside its plan. Each with what is aimed at.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import entity_head, training_throughput
from benchmarks.entity_head import HeadArguments
from benchmarks.evaluation_record import write_record
from benchmarks.training_throughput import ThroughputArguments
from modeling_mofi.recipe_parser import parse_recipe


ROOT = Path(__file__).parent.parent
# By measurement: the least or the most that is aimed at.
AIMS = {
    "ours_over_open_clip": "at least 1.0",
    "multi_task_over_contrastive": "at least 0.93",
    "full_softmax_over_products": "at most 1.5",
    "data_wait_share": "at most 0.05 with 16 workers",
    "head_peak_over_plan": "at most 1.1",
}


@dataclass
class GpuArguments:
    """How much to measure, and where to write it."""

    small: bool = field(default=False, metadata={"help": "Tiny sizes on a CPU, to see that the command works."})
    batch_size: int = 1024
    num_workers: int = 16
    output: str = "benchmarks/results/gpu.json"


def main(argv: list[str] | None = None) -> None:
    (args,) = parse_recipe(GpuArguments, argv, description="Measures training on a GPU.")
    if not args.small and not torch.cuda.is_available():
        raise ValueError("There is no GPU here. `--small` shows on a CPU that the command works.")
    steps, head = settings(args)
    measured: dict[str, Any] = {"aims": AIMS, "settings": [asdict(steps), asdict(head)]}
    for name, measure in measures(args, steps, head).items():
        measured[name] = measure()
        print(name, measured[name], flush=True)
        write_record(ROOT / args.output, measured)


def settings(args: GpuArguments) -> tuple[ThroughputArguments, HeadArguments]:
    """Sizes of the training step, and of the head alone."""
    if args.small:
        tiny = {"batch_size": 2, "num_entities": 500, "num_sampled_entities": 50, "projection_dim": 16}
        steps = ThroughputArguments(**tiny, image_size=32, num_layers=1, num_turns=1, num_warm_up=1, num_images=4)
        steps.num_workers = 0
        return steps, HeadArguments(**{**tiny, "num_entities": [500]}, num_steps=3)
    steps = ThroughputArguments(
        device="cuda", precision="bf16", compile=True, batch_size=args.batch_size, num_workers=args.num_workers
    )
    head = HeadArguments(
        device="cuda", num_entities=[2_000_000], projection_dim=512, batch_size=4096, num_sampled_entities=200_000
    )
    return steps, head


def measures(args: GpuArguments, steps: ThroughputArguments, head: HeadArguments) -> dict[str, Any]:
    """What to measure, by name."""
    full = {
        f"full_softmax_over_products_{precision}": lambda precision=precision: entity_head.measure_full(
            HeadArguments(**{**asdict(head), "precision": precision})
        )
        for precision in ("fp32", "tf32", "bf16")
    }
    return {
        # First, while nothing else has touched the memory.
        "head_peak_over_plan": lambda: with_ratio(entity_head.measure(head)),
        **full,
        "multi_task_over_contrastive": lambda: training_throughput.compare_with_entities(steps),
        "data_wait_share": lambda: training_throughput.measure_data_wait(steps),
        "ours_over_open_clip": lambda: training_throughput.try_open_clip(steps),
    }


def with_ratio(case: dict[str, Any]) -> dict[str, Any]:
    return {**case, "ratio": round(case["peak_megabytes"] / case["planned_megabytes"], 3)}


if __name__ == "__main__":
    main()
