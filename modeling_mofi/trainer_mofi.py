"""MofiTrainer: transformers' Trainer with MOFI's two losses, two optimizers, and a state that resumes to the bit."""

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from .checkpoint_mofi import STATE_NAME, load_state, random_states, save_state, set_random_states
from .entity_head_mofi import load_rows, save_rows
from .losses_mofi import is_distributed
from .modeling_mofi import MofiModel
from .optimizer_mofi import TowersAndHeadOptimizer
from .pretraining_mofi import MofiForPreTraining
from .training_data_mofi import PositionSampler


logger = logging.getLogger(__name__)

RECIPES = ("multi-task", "supervised", "contrastive")
NONFINITE_POLICIES = ("stop", "skip")
HEAD_OPTIMIZER_NAME = "entity_head_optimizer"
MAX_LOGIT_SCALE = math.log(100)  # As in CLIP: a larger inverse temperature is unstable.


@dataclass
class MofiTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments and MOFI's recipe. Values that the paper does not give are our defaults."""

    recipe: str = field(
        default="multi-task", metadata={"help": "multi-task (MOFI), supervised (entities only) or contrastive."}
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
    entity_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the entity head; null for learning_rate."}
    )
    text_proportions: str = field(
        default='{"alt_text": 0.5, "name": 0.25, "name_and_description": 0.25}',
        metadata={"help": "Shares of alt_text, name and name_and_description among the texts, as JSON."},
    )
    augmentation: str = field(
        default="{}", metadata={"help": "Fields of modeling_mofi.augmentation_mofi.Augmentation, as JSON."}
    )
    nonfinite_policy: str = field(
        default="stop", metadata={"help": "stop or skip the step when a loss or gradient is not finite."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the collator needs rows."})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leaves out an epoch's last batch where it is smaller than the others."}
    )

    def __post_init__(self) -> None:
        self.text_proportions = parse_json_field("text_proportions", self.text_proportions)
        self.augmentation = parse_json_field("augmentation", self.augmentation)
        super().__post_init__()
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe is {self.recipe!r}; it must be one of {', '.join(RECIPES)}.")
        if self.nonfinite_policy not in NONFINITE_POLICIES:
            raise ValueError(f"nonfinite_policy is {self.nonfinite_policy!r}; it must be stop or skip.")
        if not 0 <= self.entity_loss_weight <= 1:
            raise ValueError(f"entity_loss_weight is {self.entity_loss_weight}; it must be in [0, 1].")
        # Otherwise the Trainer divides by the number of labels, and MOFI's batches have none.
        self.average_tokens_across_devices = False


def parse_json_field(name: str, value: dict | str) -> dict:
    """Reads a JSON mapping that came as a flag; a dict stays as it is."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}; it must be a JSON mapping ({error}).") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} is {value!r}; it must be a JSON mapping.")
    return parsed


class MofiTrainer(Trainer):
    """Trains a `MofiForPreTraining` on batches of `MofiDataCollator`.

    Args:
        entities_path: `entities.parquet` of the data set, copied into every checkpoint.
        kwargs: As for `Trainer`; `train_dataset` is a `PositionDataset`.
    """

    # The losses are means over the batch; `labels`, which would make the Trainer rescale them, never occurs.
    loss_is_scaled_for_ga = False
    args: MofiTrainingArguments

    def __init__(self, model: MofiForPreTraining, *, entities_path: str | Path | None = None, **kwargs: Any):
        super().__init__(model, **kwargs)
        self.loss_is_scaled_for_ga = False
        self.model_accepts_loss_kwargs = False
        self.entities_path = entities_path
        self._reset_log_sums()
        if self.args.recipe == "supervised":
            # Without texts these get no gradient, and data-parallel wrappers would wait for one.
            for unused in (model.mofi.text_model, model.mofi.text_projection):
                unused.requires_grad_(False)
            model.mofi.logit_scale.requires_grad_(False)
        if model.entity_head is not None:
            num_rows = self.args.train_batch_size * self.args.world_size
            logger.info(model.entity_head.memory_plan(batch_size=num_rows))

    @property
    def pretraining_model(self) -> MofiForPreTraining:
        """The model without any wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    # Data

    def _get_train_sampler(self, train_dataset: Any = None) -> PositionSampler:
        train_dataset = train_dataset if train_dataset is not None else self.train_dataset
        return PositionSampler(len(train_dataset), seed=self.args.data_seed or self.args.seed)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self._data_seconds += time.perf_counter() - started
        return batches

    # Loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Weighs the losses of the recipe and notes them for the log."""
        own_model = self.pretraining_model
        if own_model.entity_head is not None:
            own_model.entity_head.sampling_step = self.state.global_step
        outputs = model(**inputs)
        loss = self._weighted_loss(outputs)
        self._raise_or_skip(loss.detach(), what="loss")
        self._note(loss, outputs, num_images=len(inputs["pixel_values"]))
        return (loss, outputs) if return_outputs else loss

    def _weighted_loss(self, outputs: Any) -> torch.Tensor:
        if outputs.entity_loss is None:
            return outputs.contrastive_loss
        if outputs.contrastive_loss is None:
            return outputs.entity_loss
        weight = self.args.entity_loss_weight
        return weight * outputs.entity_loss + (1 - weight) * outputs.contrastive_loss

    def _raise_or_skip(self, value: torch.Tensor, *, what: str) -> None:
        """Applies `nonfinite_policy`, alike on every process, before anything could poison the state."""
        is_finite = torch.isfinite(value).all().float()
        if is_distributed():
            torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
        if is_finite:
            return
        if self.args.nonfinite_policy == "stop":
            raise FloatingPointError(
                f"The {what} is not finite at step {self.state.global_step}. Weights and optimizer state are those of "
                "the step before. Lower learning_rate, check the data, or set --nonfinite_policy skip."
            )
        logger.warning("step %d is skipped: its %s is not finite", self.state.global_step, what)
        self._skips_step = True

    # Optimization

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the towers' optimizer as `Trainer` does, and a row-sparse Adam beside it for the head."""
        if self.optimizer is not None:
            return self.optimizer
        own_model = self.pretraining_model
        super().create_optimizer(own_model.mofi)
        if own_model.entity_head is not None:
            learning_rate = self.args.entity_learning_rate or self.args.learning_rate
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            head = torch.optim.SparseAdam(own_model.entity_head.parameters(), lr=learning_rate, betas=betas)
            self.optimizer = TowersAndHeadOptimizer(self.optimizer, head)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        # Rows of the head have gradients of their own scale, spread over processes: they are not clipped.
        return self.accelerator.clip_grad_norm_(self.pretraining_model.mofi.parameters(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | None:
        """Checks the towers' gradient and, where the step is to be skipped, removes every gradient."""
        if grad_norm is not None:
            self._raise_or_skip(torch.as_tensor(grad_norm), what="gradient")
        if self._skips_step:
            self.optimizer.zero_grad()
            self._skips_step = False
        return grad_norm

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.no_grad():
            # Where the last step moved it past the limit, it comes back.
            self.pretraining_model.mofi.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return super().training_step(*args, **kwargs)

    # Log

    def _reset_log_sums(self) -> None:
        self._skips_step = False
        self._loss_sums: dict[str, torch.Tensor] = {}
        self._num_noted = self._num_images = 0
        self._data_seconds, self._log_started = 0.0, time.perf_counter()

    def _note(self, loss: torch.Tensor, outputs: Any, *, num_images: int) -> None:
        self._num_noted += 1
        self._num_images += num_images
        for name in ("contrastive_loss", "entity_loss"):
            if (part := getattr(outputs, name)) is not None:
                self._loss_sums[name] = self._loss_sums.get(name, 0) + part.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds loss parts, `logit_scale`, images per second over all processes and the share of time spent waiting."""
        if "loss" in logs and self._num_noted:
            seconds = time.perf_counter() - self._log_started
            for name, total in self._loss_sums.items():
                logs[name] = self._mean_over_processes(total) / self._num_noted
            logs["logit_scale"] = self.pretraining_model.mofi.logit_scale.item()
            logs["images_per_second"] = round(self._num_images * self.args.world_size / seconds, 1)
            logs["data_wait_share"] = round(self._data_seconds / seconds, 4)
            self._reset_log_sums()
        super().log(logs, start_time)

    def _mean_over_processes(self, value: torch.Tensor) -> float:
        return self.accelerator.reduce(value.float(), "mean").item()

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes model, head, processor and settings; every process writes its own rows of the head."""
        output_dir = output_dir if output_dir is not None else self.args.output_dir
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        self.pretraining_model.save_pretrained(output_dir, is_main_process=self.args.should_save)
        if not self.args.should_save:
            return
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        if self.entities_path is not None:
            shutil.copyfile(self.entities_path, Path(output_dir) / "entities.parquet")
        (Path(output_dir) / "training_args.json").write_text(self.args.to_json_string(), encoding="utf-8")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = self.optimizer.state_dict()
        head = self.pretraining_model.entity_head
        if head is not None:
            # A copy: what torch calls a state dict holds the live dictionaries of each parameter.
            moments = dict(state["head"]["state"].get(0, {}))
            rows = {name: moments.pop(name) for name in ("exp_avg", "exp_avg_sq") if name in moments}
            save_rows(output_dir, rows, name=HEAD_OPTIMIZER_NAME, num_rows=head.num_entities)
            state["head"]["state"] = {0: moments}
        if self.args.should_save:
            save_state(output_dir, "optimizer", state)
            save_state(output_dir, "scheduler", self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(checkpoint, "optimizer")
        head = self.pretraining_model.entity_head
        if head is not None:
            rows = load_rows(checkpoint, name=HEAD_OPTIMIZER_NAME, first_row=head.first_row, end_row=head.end_row)
            state["head"]["state"][0].update(rows)
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(load_state(checkpoint, "scheduler"))

    def _save_rng_state(self, output_dir: str) -> None:
        save_state(output_dir, f"rng_state_{self.args.process_index}", random_states())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if not (Path(checkpoint) / f"rng_state_{self.args.process_index}.json").is_file():
            logger.warning(
                "%s was saved by fewer processes; process %d goes on with its own random state.",
                checkpoint,
                self.args.process_index,
            )
            return
        set_random_states(load_state(checkpoint, f"rng_state_{self.args.process_index}"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not (Path(resume_from_checkpoint) / STATE_NAME).is_file():
            raise ValueError(
                f"{resume_from_checkpoint} has no {STATE_NAME}: its writing was interrupted, or it is no checkpoint. "
                "Resume from an earlier one."
            )
        own_model = self.pretraining_model
        towers = MofiModel.from_pretrained(resume_from_checkpoint)
        own_model.mofi.load_state_dict(towers.state_dict())
        if own_model.entity_head is not None:
            own_model.load_head(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
