"""MofiTrainer: transformers' Trainer with MOFI's two losses, two optimizers, and a state that resumes to the bit."""

import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from .checkpoint_mofi import (
    STATE_NAME,
    load_optimizer,
    load_state,
    random_states,
    read_json,
    save_optimizer,
    save_state,
    set_random_states,
)
from .modeling_mofi import MofiModel
from .optimizer_mofi import TowersAndHeadOptimizer
from .pretraining_mofi import MofiForPreTraining
from .processes_mofi import all_reduce, wait_for_all
from .training_arguments_mofi import MofiTrainingArguments
from .training_data_mofi import PositionSampler


logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100)  # As in CLIP: a larger inverse temperature is unstable.


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
        self.model_accepts_loss_kwargs = False
        self.entities_path = entities_path
        self._skips_step = False
        self._num_unreadable = 0
        self._reset_log_sums()
        self._freeze_unused(model)
        if model.entity_head is not None:
            num_rows = self.args.train_batch_size * self.args.world_size
            logger.info(model.entity_head.memory_plan(batch_size=num_rows))
        if self.args.gradient_accumulation_steps > 1 and self.args.recipe != "supervised":
            logger.warning(
                "gradient_accumulation_steps averages the gradients of %d batches of %d images; it adds no negatives "
                "to the contrastive loss.",
                self.args.gradient_accumulation_steps,
                self.args.train_batch_size * self.args.world_size,
            )

    def _freeze_unused(self, model: MofiForPreTraining) -> None:
        if self.args.recipe == "supervised":
            # Without texts these get no gradient, and data-parallel wrappers would wait for one.
            for unused in (model.mofi.text_model, model.mofi.text_projection):
                unused.requires_grad_(False)
            model.mofi.logit_scale.requires_grad_(False)

    @property
    def pretraining_model(self) -> MofiForPreTraining:
        """The model without any wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    # Data

    def _get_train_sampler(self, train_dataset: Any = None) -> PositionSampler:
        train_dataset = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        groups = getattr(train_dataset.rows, "group_sizes", [len(train_dataset)])
        self._train_sampler = PositionSampler(groups, seed=seed)
        return self._train_sampler

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        # accelerate does not reach the sampler when several processes go on in the middle of an epoch.
        self._train_sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Fetches the batches of a step, and notes how long that took and how many images were unreadable."""
        started = time.perf_counter()
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._data_seconds += time.perf_counter() - started
        self._num_unreadable += sum(int(batch.pop("num_unreadable", 0)) for batch in batches)
        return batches, num_items

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
        if self._is_usable(loss.detach(), what="loss"):
            self._note(outputs, num_images=len(inputs["pixel_values"]))
        return (loss, outputs) if return_outputs else loss

    def _weighted_loss(self, outputs: Any) -> torch.Tensor:
        if outputs.entity_loss is None:
            return outputs.contrastive_loss
        if outputs.contrastive_loss is None:
            return outputs.entity_loss
        weight = self.args.entity_loss_weight
        return weight * outputs.entity_loss + (1 - weight) * outputs.contrastive_loss

    def _is_usable(self, values: torch.Tensor, *, what: str) -> bool:
        """Applies `nonfinite_policy`, alike on every process, before anything could poison the state.

        Raises:
            FloatingPointError: If a value is not finite and the policy is to stop.
        """
        if all_reduce(torch.isfinite(values).all().float(), "MIN"):
            return True
        if self.args.nonfinite_policy == "stop":
            raise FloatingPointError(
                f"The {what} is not finite at step {self.state.global_step}. Weights and optimizer state are those of "
                "the step before. Lower learning_rate, check the data, or set --nonfinite_policy skip."
            )
        logger.warning("step %d is skipped: its %s is not finite", self.state.global_step, what)
        self._skips_step = True
        return False

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

    def _clip_grad_norm(self, model: nn.Module, max_norm: float | None = None) -> torch.Tensor:
        # Rows of the head have gradients of their own scale, spread over processes: they are not clipped.
        max_norm = self.args.max_grad_norm if max_norm is None else max_norm
        return self.accelerator.clip_grad_norm_(self.pretraining_model.mofi.parameters(), max_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """Checks every gradient, and removes them all where the step is to be skipped."""
        grad_norm = self._clip_grad_norm(model, math.inf) if grad_norm is None else grad_norm
        if not self._skips_step:
            head = self.pretraining_model.entity_head
            rows = None if head is None or head.weight.grad is None else head.weight.grad._values()
            sums = [torch.as_tensor(grad_norm), *([] if rows is None else [rows.sum()])]
            self._is_usable(torch.stack([value.float() for value in sums]), what="gradient")
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
        self._loss_sums: dict[str, torch.Tensor] = {}
        self._num_noted = self._num_images = 0
        self._data_seconds, self._log_started = 0.0, time.perf_counter()

    def _note(self, outputs: Any, *, num_images: int) -> None:
        self._num_noted += 1
        self._num_images += num_images
        for name in ("contrastive_loss", "entity_loss"):
            if (part := getattr(outputs, name)) is not None:
                self._loss_sums[name] = self._loss_sums.get(name, 0) + part.detach()

    @contextmanager
    def _untimed(self) -> Iterator[None]:
        """Keeps the seconds of what is no training out of the log's rates."""
        started = time.perf_counter()
        yield
        self._log_started += time.perf_counter() - started

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds loss parts, `logit_scale`, images per second over all processes and the share of time spent waiting."""
        if "loss" in logs and self._num_noted:
            seconds = time.perf_counter() - self._log_started
            for name, total in self._loss_sums.items():
                logs[name] = self._mean_over_processes(total) / self._num_noted
            logs["logit_scale"] = self.pretraining_model.mofi.logit_scale.item()
            logs["images_per_second"] = round(self._num_images * self.args.world_size / seconds, 1)
            logs["data_wait_share"] = round(self._data_seconds / seconds, 4)
            if num_unreadable := all_reduce(torch.tensor(self._num_unreadable, device=self.args.device), "SUM").item():
                logs["unreadable_images"] = num_unreadable
            self._reset_log_sums()
        super().log(logs, start_time)

    def _mean_over_processes(self, value: torch.Tensor) -> float:
        return self.accelerator.reduce(value.float(), "mean").item()

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint whose last file, the trainer's state, says that all others are complete."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / STATE_NAME).unlink(missing_ok=True)  # One that is written again is incomplete until the end.
        with self._untimed():
            wait_for_all()
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes model, head, processor and settings; every process writes its own rows of the head."""
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.pretraining_model.save_pretrained(folder, is_main_process=self.args.should_save)
        if self.args.should_save:
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            if self.entities_path is not None:
                shutil.copyfile(self.entities_path, folder / "entities.parquet")
            (folder / "training_args.json").write_text(self.args.to_json_string(), encoding="utf-8")
        wait_for_all()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer(output_dir, self.optimizer, self.pretraining_model.entity_head, is_main=self.args.should_save)
        if self.args.should_save:
            save_state(output_dir, "scheduler", self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(checkpoint, self.optimizer, self.pretraining_model.entity_head)
            self.lr_scheduler.load_state_dict(load_state(checkpoint, "scheduler"))

    def _save_scaler(self, output_dir: str) -> None:
        """Does nothing: bf16 needs no scaler, and a scaler's state would be pickled."""

    _load_scaler = _save_scaler

    def _save_rng_state(self, output_dir: str) -> None:
        save_state(output_dir, f"rng_state_{self.args.process_index}", random_states())
        wait_for_all()  # The main process writes the trainer's state next, which declares the checkpoint complete.

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        name = f"rng_state_{self.args.process_index}"
        if (Path(checkpoint) / f"{name}.json").is_file():
            set_random_states(load_state(checkpoint, name))
        else:
            logger.warning("%s was saved by fewer processes; this one goes on with its own random state.", checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if read_json(Path(resume_from_checkpoint) / STATE_NAME) is None:
            raise ValueError(
                f"{resume_from_checkpoint} has no complete {STATE_NAME}: its writing was interrupted, or it is no "
                "checkpoint. Resume from an earlier one."
            )
        own_model = self.pretraining_model
        own_model.mofi.load_state_dict(MofiModel.from_pretrained(resume_from_checkpoint).state_dict())
        if own_model.entity_head is not None:
            own_model.load_head(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
