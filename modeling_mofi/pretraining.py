"""MOFI for pre-training: the two towers and the entity head, with both losses."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_mofi import MofiConfig
from .entity_head import MofiEntityHead
from .losses_mofi import contrastive_loss
from .modeling_mofi import MofiModel
from .patch_dropout import keep_patches, prepare_for_kept_patches
from .pretrained_mofi import MofiPreTrainedModel
from .sharded_rows import load_rows, num_saved_rows, save_rows
from .towers_mofi import unit_length


logger = logging.getLogger(__name__)

HEAD_NAME = "entity_head"  # Name of the head's files beside the towers'.
HUB_SETTINGS = ("revision", "token", "cache_dir", "local_files_only")


def head_folder(name: str | os.PathLike, **kwargs: Any) -> Path | None:
    """Folder that holds a checkpoint's head, and the names of its rows, brought from the Hub if need be.

    Args:
        name: Folder or Hub id.
        kwargs: As for `from_pretrained`; of them `revision`, `token`, `cache_dir` and `local_files_only` count.

    Returns:
        None if the checkpoint has no head.
    """
    folder = Path(name)
    if not folder.is_dir():
        found = {key: kwargs[key] for key in HUB_SETTINGS if kwargs.get(key) is not None}
        patterns = [f"{HEAD_NAME}.safetensors", f"{HEAD_NAME}-*-of-*.safetensors", "entities.parquet"]
        folder = Path(snapshot_download(str(name), allow_patterns=patterns, **found))
    return None if num_saved_rows(folder, name=HEAD_NAME) is None else folder


@dataclass
class MofiForPreTrainingOutput(ModelOutput):
    """Losses and embeddings of a batch.

    Args:
        loss (`torch.Tensor` of shape `()`): Sum of the losses below; `MofiTrainer` weighs them instead.
        contrastive_loss (`torch.Tensor` of shape `()`): Present if texts were given.
        entity_loss (`torch.Tensor` of shape `()`): Present if entity labels were given and the model has a head.
        image_embeds (`torch.Tensor` of shape `(B, projection_dim)`): Unit-length image embeddings.
        text_embeds (`torch.Tensor` of shape `(B, projection_dim)`): Unit-length text embeddings.
        logit_scale (`torch.Tensor`, a scalar): Inverse temperature of the contrastive loss, if texts were given.
        logit_bias (`torch.Tensor`, a scalar): Its bias, if texts were given and contrast is by sigmoid.
    """

    loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    entity_loss: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None


class MofiForPreTraining(MofiPreTrainedModel):
    """`MofiModel` as `mofi` beside a `MofiEntityHead` as `entity_head`.

    `save_pretrained` writes the towers as a `MofiModel` and the head to a separate file, so whoever loads the
    folder with `AutoModel` gets the towers and downloads no head.

    Args:
        config: With `num_entities` classes for the head; 0 for none.
        head_settings: Keyword arguments of `MofiEntityHead`: `scale`, `margin`, `num_sampled_entities`, `precision`,
            `seed`.

    Attributes:
        same_entity: What images of one entity are to each other's texts, as for `contrastive_loss`.

    Source: MOFI (https://huggingface.co/papers/2306.07952).
    """

    # Every process owns other rows: a data-parallel wrapper must neither broadcast nor average them.
    _ddp_params_and_buffers_to_ignore = ["entity_head.weight"]
    _keys_to_ignore_on_load_missing = ["entity_head.weight"]

    def __init__(self, config: MofiConfig, **head_settings: Any):
        super().__init__(config)
        self.same_entity = "left_out"
        self.mofi = MofiModel(config)
        prepare_for_kept_patches(self.mofi.vision_model)
        self.entity_head = None
        if config.num_entities:
            self.entity_head = MofiEntityHead(config.num_entities, config.projection_dim, **head_settings)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MofiEntityHead) and not getattr(module.weight, "_is_hf_initialized", False):
            module.reset_parameters()

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        entity_labels: torch.Tensor | None = None,
        entity_weights: torch.Tensor | None = None,
        return_loss: bool = True,
        kept_patches: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MofiForPreTrainingOutput:
        """Embeds a batch and computes the losses that its inputs allow.

        Args:
            pixel_values: Images `[B, 3, H, W]`.
            input_ids: Texts `[B, L]`, text i of image i; None for the supervised recipe.
            entity_labels: One entity per image `[B]`, negative where it has none. Without a head they still say which
                images are of one entity.
            entity_weights: `[B]`, how much each image counts in the entity loss; None for all alike.
            return_loss: False leaves out the losses, and with them all communication between processes.
            kept_patches: Indices `[B, K]` of the patches that the vision tower sees of each image, None for all.

        Raises:
            ValueError: If the inputs allow no loss at all.
        """
        with keep_patches(self.mofi.vision_model, kept_patches):
            images = self.mofi.get_image_features(pixel_values, return_dict=True, **kwargs)
        image_embeds = unit_length(images.pooler_output)
        text_embeds = logit_scale = logit_bias = None
        if input_ids is not None:
            texts = self.mofi.get_text_features(input_ids, attention_mask=attention_mask, return_dict=True)
            text_embeds, logit_scale = unit_length(texts.pooler_output), self.mofi.logit_scale.exp()
            if self.mofi.logit_bias is not None:
                logit_bias = self.mofi.logit_bias.clone()  # DDP fails where a parameter itself is an output.
        if not return_loss:
            embeds = {"image_embeds": image_embeds, "text_embeds": text_embeds}
            return MofiForPreTrainingOutput(**embeds, logit_scale=logit_scale, logit_bias=logit_bias)
        return self.losses(
            image_embeds,
            text_embeds,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            entity_labels=entity_labels,
            entity_weights=entity_weights,
        )

    def losses(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor | None,
        *,
        logit_scale: torch.Tensor | None,
        logit_bias: torch.Tensor | None = None,
        entity_labels: torch.Tensor | None,
        entity_weights: torch.Tensor | None = None,
    ) -> MofiForPreTrainingOutput:
        """Computes the losses of embedded images and texts; arguments and errors as for `forward`."""
        losses = {}
        if text_embeds is not None:
            losses["contrastive_loss"] = contrastive_loss(
                image_embeds,
                text_embeds,
                logit_scale=logit_scale,
                logit_bias=logit_bias,
                entity_labels=entity_labels,
                same_entity=self.same_entity,
            )
        if self.entity_head is not None and entity_labels is not None:
            losses["entity_loss"] = self.entity_head(image_embeds, entity_labels, entity_weights)
        if not losses:
            raise ValueError(
                "The batch allows no loss: it has no input_ids (for the contrastive loss) and no entity_labels for a "
                f"head (num_entities is {self.config.num_entities})."
            )
        return MofiForPreTrainingOutput(
            loss=sum(losses.values()),
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            **losses,
        )

    @property
    def input_tower(self) -> PreTrainedModel:
        return self.mofi.input_tower

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs: Any) -> None:
        """Writes towers and configuration from the main process, and from every process its rows of the head.

        Args:
            kwargs: As for `PreTrainedModel.save_pretrained` of the towers; a `state_dict` is theirs alone.
        """
        if is_main_process:
            self.mofi.save_pretrained(save_directory, **kwargs)
        if self.entity_head is not None:
            tensors = {"weight": self.entity_head.weight}
            save_rows(save_directory, tensors, name=HEAD_NAME, num_rows=self.entity_head.num_entities)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, with_head: bool = True, **kwargs: Any
    ):
        """Loads the towers from any MOFI, CLIP or SigLIP checkpoint, and its head.

        Args:
            with_head: False leaves the head's rows as they are drawn.

        Raises:
            ValueError: If the saved head is of another size than `num_entities`.
        """
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if model.entity_head is None or not with_head:
            return model
        if (folder := head_folder(pretrained_model_name_or_path, **kwargs)) is not None:
            model.load_head(folder)
        else:
            logger.warning("%s has no entity head: its rows are new", pretrained_model_name_or_path)
        return model

    @torch.no_grad()
    def load_head(self, folder: str | os.PathLike) -> None:
        """Copies this process's rows from a save of the head by any number of processes.

        Raises:
            ValueError: If the save is of another size.
        """
        head = self.entity_head
        saved = num_saved_rows(folder, name=HEAD_NAME)
        if saved not in (None, head.num_entities):
            raise ValueError(
                f"The head in {folder} has {saved} entities, this model's has {head.num_entities}. Load it with its "
                "own configuration, or with_head=False for new rows."
            )
        rows = load_rows(folder, name=HEAD_NAME, first_row=head.first_row, end_row=head.end_row)["weight"]
        if rows.shape != head.weight.shape:
            raise ValueError(
                f"The head in {folder} has rows of size {rows.shape[1]}, this model's have {head.weight.shape[1]}."
            )
        head.weight.copy_(rows)
