"""Scores candidates by the similarity of the image and the entity's text, with any CLIP-like model."""

import numpy as np
import torch

from data_scripts.embed_entities import open_filter_model, open_text_embeddings
from data_scripts.schema import Batch


@torch.inference_mode()
def score_entities(batch: Batch, *, filter_model: str, text_embeddings: str) -> Batch:
    """Adds `similarity` to every candidate and takes `pixels` away.

    Args:
        batch: Columns `pixels` (RGB Pillow images) and `candidates`.
        filter_model: Name or path of a dual encoder.
        text_embeddings: Folder of `embed_entities`.
    """
    model = open_filter_model(filter_model)
    vectors, position_of = open_text_embeddings(text_embeddings)
    inputs = model.processor(images=batch.pop("pixels"), return_tensors="pt")
    pixel_values = inputs["pixel_values"].to(model.device, next(model.model.parameters()).dtype)
    image_embeds = model.embed(model.model.get_image_features(pixel_values=pixel_values))  # [B, D]
    # Candidates of the whole batch at once; scored in float32, where ties are rare.
    owner = np.repeat(np.arange(len(image_embeds)), [len(found) for found in batch["candidates"]])
    positions = [position_of[candidate["entity_id"]] for found in batch["candidates"] for candidate in found]
    similarities = iter(np.einsum("kd,kd->k", image_embeds[owner], vectors[positions]).tolist())
    batch["candidates"] = [
        [candidate | {"similarity": next(similarities)} for candidate in found] for found in batch["candidates"]
    ]
    return batch
