"""MofiTrainer: MOFI's two losses, two optimizers and cheaper steps, on top of transformers' Trainer."""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import TrainOutput

from ..data.collator import normalize_pixels
from ..distributed_mofi import all_reduce
from ..patch_dropout import draw_patches, shrink_images, value_at
from ..pretraining import MofiForPreTraining, MofiForPreTrainingOutput
from ..processing_mofi import MofiProcessor
from .arguments import MofiTrainingArguments
from .assembly import assemble
from .gradient_cache import cached_backward
from .interruption import Interruption
from .log import TrainingLog
from .model_building import ModelArguments
from .model_preparation import choose_sharding, compile_towers, contrast_scalars, prepare_model
from .optimizer import TowersAndHeadOptimizer, clip_gradients, lower_rates_by_layer
from .resumable_trainer import ResumableTrainer


logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100)  # As in CLIP, of softmax: a larger inverse temperature is unstable.


class MofiTrainer(ResumableTrainer):
    """Trains towers and an entity head on images with texts, entities or both.

    Args:
        model: Checkpoint to start from (MOFI, CLIP, SigLIP, or an image encoder alone), a folder or an id on the Hub;
            or `ModelArguments`, or a `MofiForPreTraining` as it is. A checkpoint gets a new head, of which the rows
            that its own head knows are kept and the others begin as the embeddings of their texts.
        train_dataset: I2E folder, Parquet files or an id on the Hub; a `datasets.Dataset` or `IterableDataset` with
            the columns `image`, `alt_text` and, for entities, `entity_labels`.
        entities: entities.parquet, here or a URL; None for the dataset's own.
        eval_dataset: What to evaluate on, such as the same I2E folder, of which the validation split is taken; any
            images with a column `label`; or `EvaluationData` for other columns.
        processing_class: The model's processor; None for that of the checkpoint.
        keep_decoded: Keeps decoded images in memory, for small datasets.
        evaluate_model: Called with the model to evaluate instead; it returns metrics, such as
            `{"retrieval_map": 0.5}`, on every process.
        kwargs: As for `ResumableTrainer` and `Trainer`; with a `data_collator`, everything else is taken as it is.

    Example:

    ```python
    args = MofiTrainingArguments(output_dir="my_mofi", learning_rate=1e-5, entity_learning_rate=1e-3)
    trainer = MofiTrainer("google/siglip2-base-patch16-224", args=args, train_dataset="my_i2e")
    trainer.train()
    trainer.save_model()
    ```
    """

    # The losses are means over the batch; `labels`, which would make the Trainer rescale them, never occurs.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: MofiForPreTraining | ModelArguments | str | Path,
        *,
        args: MofiTrainingArguments,
        train_dataset: Any = None,
        entities: str | Path | None = None,
        eval_dataset: Any = None,
        processing_class: MofiProcessor | None = None,
        keep_decoded: bool = False,
        evaluate_model: Callable[[MofiForPreTraining], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        given = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "processing_class": processing_class}
        if "data_collator" not in kwargs:
            given = assemble(model, args, **given, entities=entities, keep_decoded=keep_decoded)
            model, found = given.pop("model"), given.pop("evaluate_model")
            evaluate_model = evaluate_model or found
        prepare_model(model, args)
        super().__init__(model, args=args, **given, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.evaluate_model = evaluate_model
        self.training_log = TrainingLog()
        self._losses: list[torch.Tensor] = []  # Of the step that is under way.
        self.interruption = Interruption()
        self.add_callback(self.interruption)
        if args.tower_compilation is not None:
            compile_towers(model, args.tower_compilation)
        if self.is_fsdp_enabled:
            self._exempt_from_sharding(model)
        self._announce(model)

    def _exempt_from_sharding(self, model: MofiForPreTraining) -> None:
        """Keeps from FSDP the head, of which every process owns other rows, and the scalars of the contrast."""
        plugin, head = self.accelerator.state.fsdp_plugin, model.entity_head
        choose_sharding(plugin, model.mofi)
        for name, scalar in contrast_scalars(model.mofi).items():
            # FSDP moves to the device only what it shards.
            scalar = nn.Parameter(scalar.detach().to(self.args.device), requires_grad=scalar.requires_grad)
            setattr(model.mofi, name, scalar)
        scalars = contrast_scalars(model.mofi).values()
        plugin.ignored_modules = [nn.ParameterList(scalars), *([] if head is None else [head.to(self.args.device)])]

        def average(parameter: nn.Parameter) -> None:
            if self.accelerator.sync_gradients:
                all_reduce(parameter.grad, "SUM").div_(self.args.world_size)

        for scalar in scalars:
            if scalar.requires_grad:
                scalar.register_post_accumulate_grad_hook(average)

    def _announce(self, model: MofiForPreTraining) -> None:
        sizes = self.args.world_size, self.args.train_batch_size
        batch_size = math.prod(sizes)
        logger.info("%d processes x %d images = global batch of %d", *sizes, batch_size)
        if self.args.save_only_model:
            logger.warning("save_only_model: a run cannot be gone on from checkpoints without optimizer states")
        if model.entity_head is not None:
            logger.info(model.entity_head.memory_plan(batch_size=batch_size))
        if self.args.gradient_accumulation_steps > 1 and self.args.recipe != "supervised":
            logger.warning(
                "gradient_accumulation_steps averages the gradients of %d batches of %d images; it adds no negatives "
                "to the contrastive loss. For that, raise per_device_train_batch_size and set gradient_cache_size.",
                self.args.gradient_accumulation_steps,
                batch_size,
            )

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `Trainer.train`; on SIGTERM or Ctrl-C it saves a checkpoint after the step under way, and returns."""
        with self.interruption.listening():
            return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Fetches the batches of a step, and notes how long that took and how many images were unreadable."""
        with self.training_log.waiting():
            batches, num_items = super().get_batch_samples(*args, **kwargs)
        self.training_log.num_unreadable += sum(batch.pop("num_unreadable", 0) for batch in batches)
        return batches, num_items

    # A step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Clamps `logit_scale`, makes the batch as cheap as the schedules say, and accumulates its gradient."""
        own_model = self.pretraining_model
        if own_model.config.contrast == "softmax":
            with torch.no_grad():
                # Where the last step moved it past the limit, it comes back.
                own_model.mofi.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if (head := own_model.entity_head) is not None:
            head.sampling_step = self.state.global_step
            if head.is_sampled:
                head.own_sample()  # Now, while a GPU is still busy with the step before.
        inputs = self._cheaper(self._prepare_inputs(inputs), own_model)
        if self.args.gradient_cache_size is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._cached_step(model, inputs)
        return loss.nan_to_num(0.0, 0.0, 0.0)  # It is added up for the log; the gradient is judged at the step's end.

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Checks labels, moves a batch to the device, and normalizes images there that came as bytes."""
        head, labels = self.pretraining_model.entity_head, inputs.get("entity_labels")
        if head is not None and labels is not None and not labels.is_cuda:
            head.check_labels(labels)
        inputs = super()._prepare_inputs(inputs)
        if inputs["pixel_values"].dtype == torch.uint8:
            image_processor = getattr(self.processing_class, "image_processor", self.processing_class)
            inputs["pixel_values"] = normalize_pixels(inputs["pixel_values"], image_processor)
        return inputs

    def _cheaper(self, inputs: dict[str, Any], model: MofiForPreTraining) -> dict[str, Any]:
        """Applies `image_size_schedule` and `patch_dropout_schedule` at this step of the run."""
        progress = self.state.global_step / self.state.max_steps
        noise, config = inputs.pop("patch_noise", None), model.config.vision_config
        if (image_size := value_at(self.args.image_size_schedule, progress)) is not None:
            inputs["pixel_values"] = shrink_images(inputs["pixel_values"], image_size=int(image_size))
            inputs["interpolate_pos_encoding"] = int(image_size) != config.image_size
        if dropout := value_at(self.args.patch_dropout_schedule, progress):
            num_patches = (inputs["pixel_values"].shape[-1] // config.patch_size) ** 2
            inputs["kept_patches"] = draw_patches(noise, num_patches=num_patches, dropout=dropout)
        return inputs

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        model.train()
        num_images = len(inputs["pixel_values"])
        entities = {name: inputs.pop(name, None) for name in ("entity_labels", "entity_weights")}

        def compute_loss(embeds: MofiForPreTrainingOutput) -> torch.Tensor:
            outputs = self.pretraining_model.losses(
                embeds.image_embeds,
                embeds.text_embeds,
                logit_scale=embeds.logit_scale,
                logit_bias=embeds.logit_bias,
                **entities,
            )
            return self._noted_loss(outputs, num_images=num_images) / self.current_gradient_accumulation_steps

        return cached_backward(
            model,
            inputs,
            chunk_size=self.args.gradient_cache_size,
            compute_loss=compute_loss,
            backward=self.accelerator.backward,
            no_sync=lambda: self.accelerator.no_sync(model) if self.args.world_size > 1 else nullcontext(),
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Weighs the losses of the recipe and notes them for the log."""
        outputs = model(**inputs)
        loss = self._noted_loss(outputs, num_images=len(inputs["pixel_values"]))
        return (loss, outputs) if return_outputs else loss

    def _noted_loss(self, outputs: MofiForPreTrainingOutput, *, num_images: int) -> torch.Tensor:
        loss = self._weighted_loss(outputs)
        self._losses.append(loss.detach().float())
        self.training_log.note(outputs, num_images=num_images)
        return loss

    def _weighted_loss(self, outputs: MofiForPreTrainingOutput) -> torch.Tensor:
        if outputs.entity_loss is None:
            return outputs.contrastive_loss
        if outputs.contrastive_loss is None:
            return outputs.entity_loss
        weight = self.args.entity_loss_weight
        return weight * outputs.entity_loss + (1 - weight) * outputs.contrastive_loss

    def _judge_step(self, grad_norm: torch.Tensor) -> bool:
        """Applies `nonfinite_policy`, alike on every process, before anything could poison the state.

        In one exchange with what signals came, for which a GPU is waited once a step.

        Raises:
            FloatingPointError: If a loss or gradient is not finite and the policy is to stop.
        """
        head = self.pretraining_model.entity_head
        sums = [torch.as_tensor(grad_norm)]
        if head is not None and head.weight.grad is not None:
            head.weight.grad = head.weight.grad.coalesce()  # As SparseAdam would.
            sums.append(head.weight.grad.values().sum())
        parts = torch.stack(self._losses), torch.stack([value.float().to(self.args.device) for value in sums])
        self._losses.clear()
        flags = torch.stack([torch.isfinite(part).all() for part in parts]).float()
        flags = torch.cat([flags, flags.new_tensor([float(self.interruption.number is None)])])
        is_finite, uninterrupted = (flags := all_reduce(flags, "MIN").tolist())[:2], flags[2]
        self.interruption.is_agreed = not uninterrupted
        if all(is_finite):
            return True
        what = "gradient" if is_finite[0] else "loss"
        if self.args.nonfinite_policy == "stop":
            raise FloatingPointError(
                f"The {what} is not finite at step {self.state.global_step}. Weights and optimizer state are those of "
                "the step before. Lower learning_rate, check the data, or set --nonfinite_policy skip."
            )
        logger.warning("step %d is skipped: its %s is not finite", self.state.global_step, what)
        return False

    # Optimization

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the towers' optimizer as `Trainer` does, and a row-sparse Adam beside it for the head."""
        if self.optimizer is not None:
            return self.optimizer
        own_model = self.pretraining_model
        super().create_optimizer(own_model.mofi)
        scalars = list(contrast_scalars(own_model.mofi).values())
        for group in self.optimizer.param_groups:
            group["params"] = [value for value in group["params"] if all(value is not scalar for scalar in scalars)]
        if self.args.layer_decay < 1:
            lower_rates_by_layer(self.optimizer, own_model.mofi, decay=self.args.layer_decay)
        # In its own group: FSDP shards the others, and a group must be all sharded or not at all.
        self.optimizer.add_param_group({"params": scalars, "weight_decay": 0.0})
        head = own_model.entity_head
        if head is not None and head.weight.requires_grad:
            rate = self.args.entity_learning_rate
            rate = self.args.learning_rate if rate is None else rate
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = TowersAndHeadOptimizer(
                self.optimizer, torch.optim.SparseAdam([head.weight], lr=rate, betas=betas)
            )
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module, max_norm: float | None = None) -> torch.Tensor:
        # Not clipped: gradients of head rows have another scale, and are spread over processes.
        max_norm = self.args.max_grad_norm if max_norm is None else max_norm
        return clip_gradients(self.pretraining_model.mofi.parameters(), max_norm=max_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """Checks every loss and gradient, and removes the gradients where the step is to be skipped."""
        grad_norm = self._clip_grad_norm(model, math.inf) if grad_norm is None else grad_norm
        is_usable = self._judge_step(grad_norm)
        self.training_log.close_step(is_usable=is_usable)
        if not is_usable:
            self.optimizer.zero_grad()
            if self.weight_average is not None:
                self.weight_average.skips_step = True
        return grad_norm

    # Log, checkpoints and evaluation

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.training_log.num_steps == 0:
            self.training_log.restart()
        super()._run_epoch(**kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds loss parts, `logit_scale`, images per second of all processes, share of time waited, head's memory."""
        if "loss" in logs and self.training_log.num_steps:
            logs |= self.training_log.line(device=self.args.device)
            model = self.pretraining_model
            logs["logit_scale"] = model.mofi.logit_scale.item()
            if model.entity_head is not None:
                held, _ = model.entity_head.planned_bytes(batch_size=0)
                logs["entity_head_megabytes"] = round(held / 2**20, 1)
            self.training_log.restart()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.training_log.untimed():
            super()._save_checkpoint(model, trial)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Evaluates the model as it would be saved now with `evaluate_model`; logs and returns its metrics."""
        if self.evaluate_model is None:
            raise ValueError(
                "eval_strategy asks for an evaluation, but there is nothing to evaluate on: set eval_dataset."
            )
        model = self.pretraining_model
        with self.training_log.untimed(), torch.no_grad(), self.averaged_weights():
            was_training = model.training
            metrics = self.evaluate_model(model.eval())
            model.train(was_training)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
