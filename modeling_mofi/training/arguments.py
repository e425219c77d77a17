"""The recipe of a training run: transformers' TrainingArguments and what MOFI adds to them."""

import os
from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..data.images import DEFAULT_BOUNDS
from ..recipe_parser import check_choices, json_mapping


PARTS = ("image_tower", "text_tower", "entity_head")


@dataclass
class MofiTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments and MOFI's recipe. Values that the paper does not give are our defaults."""

    recipe: Literal["multi-task", "supervised", "contrastive"] = field(
        default="multi-task", metadata={"help": "Losses: both (MOFI), that of entities, or that of texts."}
    )
    entity_loss_weight: float = field(
        default=0.5,
        metadata={"help": "Share of the entity loss in [0, 1] for multi-task; the contrastive loss has the rest."},
    )
    entity_scale: float = field(default=32.0, metadata={"help": "Inverse temperature of the entity softmax."})
    entity_margin: float = field(default=0.15, metadata={"help": "Subtracted from the right entity's cosine."})
    num_sampled_entities: int | None = field(
        default=None, metadata={"help": "Entities drawn per step besides the batch's own; null for all."}
    )
    entity_precision: Literal["fp32", "tf32", "bf16"] | None = field(
        default=None,
        metadata={"help": "Of what the entity softmax multiplies; its sums are in fp32. null for what tf32 allows."},
    )
    entity_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the entity head; null for learning_rate, the towers' own."},
    )
    contrast: Literal["softmax", "sigmoid"] | None = field(
        default=None,
        metadata={"help": "softmax (CLIP's loss) or sigmoid (SigLIP's); null for the one of the checkpoint."},
    )
    same_entity: Literal["left_out", "positive", "negative"] = field(
        default="left_out",
        metadata={
            "help": "What another image's text of the same entity is to an image: left_out, positive or negative."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Learning rate of each layer of a tower, as a part of the rate of the layer above."},
    )
    entity_weighting: Literal["none", "similarity"] = field(
        default="none",
        metadata={"help": "By similarity, images count in the entity loss as much as their entity fits them."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Decay of an average of the towers' weights to evaluate and save instead; null for none."},
    )
    lora: dict | str | None = field(
        default=None,
        metadata={"help": "Low-rank adapters on the towers instead of their weights: fields of LoraConfig, as JSON."},
    )
    text_proportions: dict | str | None = field(
        default='{"alt_text": 0.5, "name": 0.25, "name_and_description": 0.25}',
        metadata={"help": "Shares of alt_text, name and name_and_description among the texts, as JSON."},
    )
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "Fields of modeling_mofi.data.augmentation.Augmentation, as JSON."}
    )
    nonfinite_policy: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "Stop, or skip the step, when a loss or gradient is not finite."}
    )
    gradient_cache_size: int | None = field(
        default=None,
        metadata={"help": "Images whose activations are held at once, for batches beyond memory; null for all."},
    )
    image_size_schedule: dict | str | None = field(
        default=None,
        metadata={"help": "Pixels a side from which share of the steps on, as JSON: {0: 112, 0.8: 224}."},
    )
    patch_dropout_schedule: dict | str | None = field(
        default=None,
        metadata={"help": "Share of patches left out from which share of the steps on, as JSON: {0: 0.5, 0.9: 0}."},
    )
    text_alignment_epochs: float = field(
        default=0.0,
        metadata={"help": "Epochs after the run in which the text tower alone learns to find what images became."},
    )
    frozen_parts: list[str] = field(
        default_factory=list, metadata={"help": "Parts not trained: image_tower, text_tower, entity_head."}
    )
    max_image_pixels: int = field(
        default=DEFAULT_BOUNDS.max_pixels,
        metadata={"help": "Larger images are left out; a worker takes up to 20 bytes a pixel while it decodes one."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the collator needs rows."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must stay false: nonfinite_policy judges a loss without waiting for it."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leaves out an epoch's last batch where it is smaller than the others."}
    )

    def __post_init__(self) -> None:
        self.text_proportions = json_mapping("text_proportions", self.text_proportions)
        self.augmentation = json_mapping("augmentation", self.augmentation)
        self.lora = json_mapping("lora", self.lora)
        for name in ("image_size_schedule", "patch_dropout_schedule"):
            setattr(self, name, parse_schedule(name, getattr(self, name)))
        self._take_compilation()
        # Before the Trainer's own settings turn it on for the whole process.
        if self.deepspeed is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            raise ValueError(
                "DeepSpeed is not supported: each process owns other rows of the entity head, and it would keep its "
                "own optimizer states. Use several processes as they are, or fsdp with version 2."
            )
        super().__post_init__()
        self._take_accelerates_settings()
        check_choices(self)
        self._check_numbers()
        if self.ddp_find_unused_parameters is None:
            # To look for them takes time at every step. Here alone none is used: `logit_scale` is all that is left.
            self.ddp_find_unused_parameters = self.recipe == "supervised" and "image_tower" in self.frozen_parts
        # Otherwise the Trainer divides by the number of labels, and MOFI's batches have none.
        self.average_tokens_across_devices = False

    def _take_compilation(self) -> None:
        # The Trainer would compile the head and its communication too; MofiTrainer compiles the towers.
        backend, mode = self.torch_compile_backend, self.torch_compile_mode
        wanted = self.torch_compile or backend is not None or mode is not None
        self.tower_compilation = {"backend": backend or "inductor", "mode": mode} if wanted else None
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None

    def _take_accelerates_settings(self) -> None:
        """Refuses what accelerate's own configuration asks for and we cannot do, and records what it sets."""
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(
                f"{self.mixed_precision} is not supported, whether it comes from --fp16 or from accelerate's "
                "configuration: the state of its gradient scaler is pickled. Use bf16."
            )
        self.bf16 = self.mixed_precision == "bf16"
        for name in ("dispatch_batches", "split_batches"):
            if getattr(self.accelerator_config, name, None):
                raise ValueError(
                    f"accelerator_config has {name}, which would hand out rows in another order. Set it to false."
                )

    def _check_numbers(self) -> None:
        if not 0 <= self.entity_loss_weight <= 1:
            raise ValueError(f"entity_loss_weight is {self.entity_loss_weight}; it must be in [0, 1].")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be in (0, 1].")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be in (0, 1), or null.")
        if self.lora and (self.ema_decay is not None or self.fsdp):
            raise ValueError("lora goes without ema_decay and fsdp: few weights are trained. Leave those out.")
        if unknown := set(self.frozen_parts) - set(PARTS):
            raise ValueError(f"frozen_parts has {', '.join(sorted(unknown))}; it may have {', '.join(PARTS)}.")
        if self.gradient_cache_size is not None and self.gradient_cache_size < 1:
            raise ValueError(f"gradient_cache_size is {self.gradient_cache_size}; it must be positive, or null.")
        if any(not 0 <= dropout < 1 for dropout in self.patch_dropout_schedule.values()):
            raise ValueError(f"patch_dropout_schedule is {self.patch_dropout_schedule}; shares must be in [0, 1).")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must stay false: the collator reads columns the model does not.")
        # Names that transformers does not know it refuses itself, with those that it knows.
        known = set(self.report_to) & set(INTEGRATION_TO_CALLBACK)
        if missing := sorted(known - set(get_available_reporting_integrations())):
            raise ValueError(
                f"report_to names {', '.join(missing)}, which is not installed: pip install {' '.join(missing)}, or "
                "report to others, or to none."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"One process has {self.n_gpu} GPUs, and would compare images and texts on each alone. Start one for "
                "each with accelerate launch or torchrun, or leave one GPU with CUDA_VISIBLE_DEVICES."
            )
        if not self.dataloader_drop_last and self.world_size > 1:
            raise ValueError(
                "dataloader_drop_last must stay true with several processes: an epoch's last batch, were it kept, "
                "would be filled up with rows that the epoch has seen already."
            )


def parse_schedule(name: str, value: dict | str | None) -> dict[float, float]:
    """Reads a mapping from shares of the steps, in [0, 1), to the values that begin there."""
    schedule = json_mapping(name, value)
    try:
        schedule = {float(start): float(begun) for start, begun in schedule.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}; it must map shares of the steps to numbers ({error}).") from error
    if schedule and (min(schedule) != 0 or max(schedule) >= 1):
        raise ValueError(f"{name} is {value!r}; its first value must begin at 0 and its last before 1.")
    return schedule
