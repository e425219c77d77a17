"""How fast training is: beside open_clip, with two million entities beside without, and beside its input pipeline.

    python -m benchmarks.training_throughput --batch_size 8 --projection_dim 256 --num_sampled_entities 16384
    python -m benchmarks.training_throughput --device cuda --precision bf16 --batch_size 1024 --num_workers 16

Steps are those of configs/train_b16.yaml: forward, both losses, backward, AdamW. The two sides of each comparison
take turns within one process, so that whatever else the machine does meets both; medians over turns are compared.
open_clip is optional: without it (`pip install open_clip_torch`) its comparisons are left out, and the record says so.
"""

import importlib.util
import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.evaluation_record import write_record
from modeling_mofi import MofiConfig, MofiForPreTraining, MofiImageProcessor
from modeling_mofi.data.augmentation import Augmentation
from modeling_mofi.data.collator import MofiDataCollator, PositionDataset
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.training.optimizer import TowersAndHeadOptimizer
from modeling_mofi.training.trainer import MAX_LOGIT_SCALE


ROOT = Path(__file__).parent.parent
RECIPE = yaml.safe_load((ROOT / "configs/train_b16.yaml").read_text(encoding="utf-8"))
VOCABULARY, CONTEXT = 49_408, 77  # open_clip's; every text fills the context, so both towers see as many tokens.
Step = Callable[[], None]


@dataclass
class ThroughputArguments:
    """Sizes to measure; the defaults suit two CPU cores, but for memory: the head takes 3 x entities x size x 4 B."""

    device: str = "cpu"
    precision: str = field(default="fp32", metadata={"help": "fp32, or bf16 for autocast."})
    compile: bool = field(default=False, metadata={"help": "torch.compile both sides' towers."})
    batch_size: int = 8
    image_size: int = 224
    projection_dim: int = 512
    num_entities: int = 2_000_000
    num_sampled_entities: int = 200_000
    num_layers: int | None = field(default=None, metadata={"help": "Of each tower; null for those of ViT-B/16."})
    num_turns: int = 8
    num_warm_up: int = 2
    num_images: int = field(default=256, metadata={"help": "Generated JPEGs, 320 pixels on the shorter side."})
    num_workers: int = field(default=2, metadata={"help": "Processes that feed the training step."})
    parts: list[str] = field(default_factory=lambda: ["open_clip", "entities", "pipeline", "data_wait"])
    output: str = "benchmarks/results/training_throughput.json"


def main() -> None:
    (args,) = parse_recipe(ThroughputArguments, description="Measures how fast training is.")
    torch.manual_seed(0)
    has_open_clip = importlib.util.find_spec("open_clip") is not None
    measures = {
        "open_clip": lambda: try_open_clip(args),
        "entities": lambda: compare_with_entities(args),
        "pipeline": lambda: measure_pipeline(args, with_peer=has_open_clip),
        "data_wait": lambda: measure_data_wait(args),
    }
    measured: dict[str, Any] = {"settings": asdict(args), "threads": torch.get_num_threads()}
    for part in args.parts:
        measured[part] = measures[part]()
        print(part, measured[part], flush=True)
        write_record(ROOT / args.output, measured)


# Steps


def build_model(args: ThroughputArguments, *, num_entities: int = 0) -> MofiForPreTraining:
    layers = {} if args.num_layers is None else {"num_hidden_layers": args.num_layers}
    config = MofiConfig(
        vision_config={**RECIPE["vision_config"], **layers, "image_size": args.image_size},
        text_config={
            **{**RECIPE["text_config"], **layers, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT},
            **{"eos_token_id": VOCABULARY - 1, "bos_token_id": VOCABULARY - 2, "pad_token_id": 0},
        },
        projection_dim=args.projection_dim,
        num_entities=num_entities,
        attn_implementation="sdpa",
    )
    model = MofiForPreTraining(config, num_sampled_entities=args.num_sampled_entities).to(args.device).train()
    if args.compile:
        model.mofi.vision_model.compile()
        model.mofi.text_model.compile()
    return model


def make_batch(args: ThroughputArguments) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, VOCABULARY - 2, (args.batch_size, CONTEXT), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = VOCABULARY - 2, VOCABULARY - 1
    pixels = torch.randn(args.batch_size, 3, args.image_size, args.image_size, generator=generator)
    labels = torch.randint(args.num_entities, (args.batch_size,), generator=generator)
    batch = {"pixel_values": pixels, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return {name: values.to(args.device) for name, values in {**batch, "entity_labels": labels}.items()}


def towers_optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for name, parameter in module.named_parameters() if not name.startswith("entity_head")]
    return torch.optim.AdamW(parameters, lr=RECIPE["learning_rate"], betas=(0.9, RECIPE["adam_beta2"]), fused=True)


def autocast(args: ThroughputArguments) -> AbstractContextManager:
    return torch.autocast(args.device, torch.bfloat16) if args.precision == "bf16" else nullcontext()


def our_step(args: ThroughputArguments, model: MofiForPreTraining, optimizer: torch.optim.Optimizer, inputs) -> Step:
    """A step on inputs without `entity_labels` is contrastive, one with them multi-task."""

    def step() -> None:
        with torch.no_grad():
            model.mofi.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        with autocast(args):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def open_clip_step(args: ThroughputArguments, batch: dict[str, torch.Tensor]) -> Step:
    import open_clip

    model = open_clip.create_model("ViT-B-16", force_image_size=args.image_size).to(args.device).train()
    forward = torch.compile(model) if args.compile else model
    optimizer, loss_of = towers_optimizer(model), open_clip.loss.ClipLoss()

    def step() -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        with autocast(args):
            loss = loss_of(*forward(batch["pixel_values"], batch["input_ids"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def take_turns(args: ThroughputArguments, steps: dict[str, Step]) -> dict[str, float]:
    """Median images per second of each step."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.num_warm_up + args.num_turns):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            synchronize(args)
            if turn >= args.num_warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {name: round(args.batch_size / median(times), 3) for name, times in seconds.items()}


def synchronize(args: ThroughputArguments) -> None:
    if args.device != "cpu":
        torch.cuda.synchronize()


# Comparisons


def try_open_clip(args: ThroughputArguments) -> dict[str, Any] | str:
    """The comparison with open_clip, or why there is none."""
    has_open_clip = importlib.util.find_spec("open_clip") is not None
    return compare_with_open_clip(args) if has_open_clip else "open_clip is not installed"


def compare_with_open_clip(args: ThroughputArguments) -> dict[str, Any]:
    """ViT-B/16 contrastive step: same sizes, batch, precision and attention (PyTorch's own)."""
    if args.projection_dim != 512:
        args = ThroughputArguments(**{**asdict(args), "projection_dim": 512})  # As open_clip's ViT-B-16 has.
    batch = make_batch(args)
    model = build_model(args)
    inputs = {name: values for name, values in batch.items() if name != "entity_labels"}
    steps = {"ours": our_step(args, model, towers_optimizer(model), inputs), "open_clip": open_clip_step(args, batch)}
    found = take_turns(args, steps)
    return {"images_per_second": found, "ours_over_open_clip": round(found["ours"] / found["open_clip"], 3)}


def compare_with_entities(args: ThroughputArguments) -> dict[str, Any]:
    """Multi-task with `num_entities` entities beside contrastive alone, on one model."""
    batch, model = make_batch(args), build_model(args, num_entities=args.num_entities)
    towers = towers_optimizer(model)
    both = TowersAndHeadOptimizer(towers, torch.optim.SparseAdam(model.entity_head.parameters()))
    inputs = {name: values for name, values in batch.items() if name != "entity_labels"}
    steps = {"multi_task": our_step(args, model, both, batch), "contrastive": our_step(args, model, towers, inputs)}
    found = take_turns(args, steps)
    ratio = round(found["multi_task"] / found["contrastive"], 3)
    return {"images_per_second": found, "multi_task_over_contrastive": ratio}


# Input pipeline


def generate_rows(num_images: int) -> list[dict[str, Any]]:
    """Rows whose JPEGs, 427 x 320, have about the bytes of photographs: noise at several scales."""
    rows, generator = [], np.random.default_rng(0)
    for _ in range(num_images):
        layers = [
            Image.fromarray(generator.integers(0, 256, (max(2, 320 // size), max(2, 427 // size), 3), dtype=np.uint8))
            for size in (1, 4, 16, 64)
        ]
        pixels = [np.asarray(layer.resize((427, 320), Image.Resampling.BICUBIC), np.float32) for layer in layers]
        mixed = sum(weight * layer for weight, layer in zip((0.08, 0.12, 0.3, 0.5), pixels, strict=True))
        content = io.BytesIO()
        Image.fromarray(mixed.astype(np.uint8)).save(content, "JPEG", quality=87)
        rows.append({"image": {"bytes": content.getvalue(), "path": None}, "alt_text": "a picture"})
    return rows


def make_loader(args: ThroughputArguments, rows: list[dict[str, Any]], *, num_workers: int) -> Iterator[Any]:
    processor = SimpleNamespace(image_processor=MofiImageProcessor())  # No text is drawn, so no tokenizer is needed.
    augmentation = Augmentation(**RECIPE["augmentation"])
    size = (args.image_size, args.image_size)
    collator = MofiDataCollator(processor, image_size=size, text_proportions=None, augmentation=augmentation)
    dataset = PositionDataset(rows, min_side=2 * args.image_size)  # As train.py sets it for these crops.
    return torch.utils.data.DataLoader(
        dataset,
        args.batch_size,
        sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**9),
        num_workers=num_workers,
        collate_fn=collator,
        pin_memory=args.device != "cpu",
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )


def measure_pipeline(args: ThroughputArguments, *, with_peer: bool) -> dict[str, Any]:
    """Images per second of one core: decode, random crop, flip, normalize; open_clip's own transform beside ours."""
    rows = generate_rows(args.num_images)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = iter(make_loader(args, rows, num_workers=0))
    steps = {"ours": lambda: next(batches)}
    if with_peer:
        steps["open_clip"] = open_clip_pipeline(args, rows)
    found = take_turns(args, steps)
    torch.set_num_threads(num_threads)
    kilobytes = sum(len(row["image"]["bytes"]) for row in rows) / len(rows) / 1000
    return {"images_per_second_per_core": found, "kilobytes_per_jpeg": round(kilobytes, 1)}


def open_clip_pipeline(args: ThroughputArguments, rows: list[dict[str, Any]]) -> Step:
    import open_clip

    settings = {"scale": (RECIPE["augmentation"]["min_crop_area"], 1.0)}
    transform = open_clip.image_transform(args.image_size, is_train=True, aug_cfg=settings)
    places = iter(torch.randint(len(rows), (10**6,), generator=torch.Generator().manual_seed(0)).tolist())

    def step() -> None:
        encoded = [rows[next(places)]["image"]["bytes"] for _ in range(args.batch_size)]
        torch.stack([transform(Image.open(io.BytesIO(content))) for content in encoded])

    return step


def measure_data_wait(args: ThroughputArguments) -> dict[str, Any]:
    """Share of a contrastive step's time that it waits for images which `num_workers` processes decode and augment."""
    batch, model = make_batch(args), build_model(args)
    inputs = {name: values for name, values in batch.items() if name != "entity_labels"}
    step = our_step(args, model, towers_optimizer(model), inputs)
    batches = iter(make_loader(args, generate_rows(args.num_images), num_workers=args.num_workers))
    waited, total = [], []
    for turn in range(args.num_warm_up + args.num_turns):
        started = time.perf_counter()
        pixels = next(batches)["pixel_values"]
        fetched = time.perf_counter()
        inputs["pixel_values"] = pixels.to(args.device, non_blocking=True)
        step()
        synchronize(args)
        if turn >= args.num_warm_up:
            waited.append(fetched - started)
            total.append(time.perf_counter() - started)
    share = round(sum(waited) / sum(total), 4)
    return {"share": share, "images_per_second": round(args.batch_size * len(total) / sum(total), 2)}


if __name__ == "__main__":
    main()
