"""transformers' Trainer with checkpoints that resume to the bit, are complete or ignored, and hold no pickles."""

import logging
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from ..data.collator import PositionSampler
from ..data.dataset_rows import EndlessRows
from ..data.entity_table import EntityTable
from ..distributed_mofi import wait_for_all
from ..hub.publishing import publish_checkpoint
from ..hub.uploads import make_repository
from ..modeling_mofi import MofiModel
from ..pretraining import MofiForPreTraining
from ..whole_files import failures_named, remove_temporary_files, try_read_json, write_text
from .adapters import has_adapters, merged_state
from .arguments import MofiTrainingArguments
from .checkpoint import (
    STATE_NAME,
    TRAINED_TOWERS_NAME,
    full_tensors,
    load_optimizer,
    load_state,
    load_towers,
    random_states,
    save_optimizer,
    save_state,
    set_random_states,
)
from .trainer_hooks import check_hooks
from .weight_average import WeightAverage


logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """Trains a `MofiForPreTraining` on a `PositionDataset`, from any of its checkpoints on as if never interrupted.

    Args:
        entities_path: `entities.parquet` of the dataset, copied into every checkpoint.
        kwargs: As for `Trainer`.
    """

    args: MofiTrainingArguments

    def __init__(self, model: MofiForPreTraining, *, entities_path: str | Path | None = None, **kwargs: Any):
        check_hooks()
        self._train_sampler: PositionSampler | None = None
        super().__init__(model, **kwargs)
        self.entities_path = entities_path
        self.weight_average = None if self.args.ema_decay is None else WeightAverage(self.args.ema_decay)
        if self.weight_average is not None:
            self.add_callback(self.weight_average)

    @cached_property
    def entities_sha256(self) -> str | None:
        """Tells the entities of this run, and their order, from others."""
        return None if self.entities_path is None else EntityTable(self.entities_path).sha256()

    @property
    def pretraining_model(self) -> MofiForPreTraining:
        """The model without any wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Lets the towers have their averaged weights for a while, if `ema_decay` asks for an average."""
        return nullcontext() if self.weight_average is None else self.weight_average.in_place_of_weights()

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.weight_average is not None:
            self.weight_average.start(self.pretraining_model)
            if resume_from_checkpoint is not None:
                self._load_average(resume_from_checkpoint)
        return prepared

    # Order of the data

    def get_train_dataloader(self) -> DataLoader:
        """Loads rows by position, or those of a stream, which shares them out over processes by itself."""
        if not isinstance(self.train_dataset, EndlessRows):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> PositionSampler:
        train_dataset = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        groups = getattr(train_dataset.rows, "group_sizes", [len(train_dataset)])
        self._train_sampler = PositionSampler(groups, seed=seed)
        return self._train_sampler

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        # accelerate does not reach the sampler when several processes resume in the middle of an epoch.
        if self._train_sampler is not None:
            self._train_sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    # Saving

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint whose last file, the trainer's state, says that all others are complete."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / STATE_NAME).unlink(missing_ok=True)  # One that is written again is incomplete until the end.
            remove_temporary_files(folder)
        wait_for_all()
        with failures_named(folder):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the model with its head and processor, however it is wrapped; every process must call this."""
        self._save(output_dir)

    # Publishing

    @property
    def repo_id(self) -> str:
        """Where the run is published: `hub_model_id`, or the name of `output_dir`."""
        return self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository before training, so that a missing right is known then and not hours later."""
        if self.is_world_process_zero():
            token, private = token or self.args.hub_token, self.args.hub_private_repo if private is None else private
            self.hub_model_id = make_repository(
                self.repo_id, private=private, token=token, kept="training has not begun"
            )
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: a run is published once, at its end, without optimizer states and pickled arguments."""

    def push_to_hub(self, commit_message: str | None = "Upload MOFI", **kwargs: Any) -> str | None:
        """Publishes `output_dir` with a filled model card, from the main process; returns the URL of the commit.

        Args:
            kwargs: As for `publish_checkpoint`, such as `license` or `with_entity_head=True`.

        Raises:
            ConnectionError: If the Hub is out of reach.
            PermissionError: If there is no token, or one without the right to write.
        """
        if not self.args.should_save:
            return None
        self.save_state()  # The card's loss curve is drawn from it.
        kwargs.pop("blocking", None)  # It always is: afterwards the run counts as done.
        own = {"private": self.args.hub_private_repo, "token": self.args.hub_token, "revision": self.args.hub_revision}
        commit_message = commit_message or "Upload MOFI"
        return publish_checkpoint(
            self.args.output_dir, self.repo_id, commit_message=commit_message, **{**own, **kwargs}
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model, is_main = self.pretraining_model, self.args.should_save
        model.config.entities_sha256 = self.entities_sha256
        with self.averaged_weights():
            model.save_pretrained(folder, is_main_process=is_main, state_dict=merged_state(model.mofi))
        if is_main:
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            if self.entities_path is not None:
                shutil.copyfile(self.entities_path, folder / "entities.parquet")
            write_text(folder / "training_args.json", self.args.to_json_string())
        wait_for_all()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer(output_dir, self.optimizer, self.pretraining_model.entity_head, is_main=self.args.should_save)
        # What an average is an average of, and adapters before they are merged: training goes on from them.
        mofi = self.pretraining_model.mofi
        is_apart = self.weight_average is not None or has_adapters(mofi)
        towers = full_tensors(mofi.state_dict()) if is_apart else None
        if self.args.should_save:
            if towers is not None:
                save_state(output_dir, TRAINED_TOWERS_NAME, towers)
            save_state(output_dir, "scheduler", self.lr_scheduler.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        save_state(output_dir, f"rng_state_{self.args.process_index}", random_states())
        wait_for_all()  # The main process writes the trainer's state next, which declares the checkpoint complete.

    def _save_scaler(self, output_dir: str) -> None:
        """Does nothing: bf16 needs no scaler, and a scaler's state would be pickled."""

    # Loading

    _load_scaler = _save_scaler

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if try_read_json(Path(resume_from_checkpoint) / STATE_NAME) is None:
            raise ValueError(
                f"{resume_from_checkpoint} has no complete {STATE_NAME}: its writing was interrupted, or it is no "
                "checkpoint. Resume from an earlier one."
            )
        if not (Path(resume_from_checkpoint) / "optimizer.json").is_file():
            raise ValueError(
                f"{resume_from_checkpoint} has no optimizer states: it was saved with save_only_model. Start anew in "
                "another output_dir; --init_from takes this checkpoint's towers and head."
            )
        self._load_model(resume_from_checkpoint)

    def _load_model(self, checkpoint: str) -> None:
        load_towers(checkpoint, self.pretraining_model.mofi)
        if self.pretraining_model.entity_head is not None:
            self.pretraining_model.load_head(checkpoint)

    def _load_best_model(self) -> None:
        self._load_model(self.state.best_model_checkpoint)
        if self.weight_average is not None:
            self._load_average(self.state.best_model_checkpoint)

    def _load_average(self, checkpoint: str) -> None:
        self.weight_average.load(MofiModel.from_pretrained(checkpoint).state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(checkpoint, self.optimizer, self.pretraining_model.entity_head)
            self.lr_scheduler.load_state_dict(load_state(checkpoint, "scheduler"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        name = f"rng_state_{self.args.process_index}"
        if (Path(checkpoint) / f"{name}.json").is_file():
            set_random_states(load_state(checkpoint, name))
        else:
            logger.warning("%s was saved by fewer processes; this one keeps its own random state.", checkpoint)
