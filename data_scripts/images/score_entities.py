"""Scores candidates by the similarity of the image and the entity's text, with any CLIP-like model."""

import numpy as np

from data_scripts.images.embed_entities import open_text_embeddings
from data_scripts.images.filter_model import embed_images
from data_scripts.schema import Batch


def score_entities(batch: Batch, *, filter_model: str, text_embeddings: str) -> Batch:
    """Adds `similarity` to every candidate, and `control`, and takes `pixels` away.

    Args:
        batch: Columns `pixels` (of `prepare_image`) and `candidates`.
        filter_model: Name or path of a dual encoder.
        text_embeddings: Folder of `embed_entities`.
    """
    vectors, position_of = open_text_embeddings(text_embeddings)
    image_embeds = embed_images(batch.pop("pixels"), filter_model=filter_model)  # [B, D]
    # Candidates of the whole batch at once; scored in float32, where ties are rare.
    owner = np.repeat(np.arange(len(image_embeds)), [len(found) for found in batch["candidates"]])
    positions = [position_of[candidate["entity_id"]] for found in batch["candidates"] for candidate in found]
    similarities = iter(np.einsum("kd,kd->k", image_embeds[owner], vectors[positions]).tolist())
    batch["candidates"] = [
        [candidate | {"similarity": next(similarities)} for candidate in found] for found in batch["candidates"]
    ]
    batch["control"] = control_similarities(batch["candidates"], image_embeds, vectors, position_of)
    return batch


def control_similarities(
    candidates: list[list[dict]], image_embeds: np.ndarray, vectors: np.ndarray, position_of: dict[str, int]
) -> list[float | None]:
    """Similarity of each image with the first entity of the row before; None where that entity is its own too."""
    firsts = [found[0]["entity_id"] for found in candidates]
    others = [*firsts[-1:], *firsts[:-1]]
    similarities = np.einsum("kd,kd->k", image_embeds, vectors[[position_of[other] for other in others]]).tolist()
    own = [{candidate["entity_id"] for candidate in found} for found in candidates]
    rows = zip(similarities, others, own, strict=True)
    return [None if other in found else similarity for similarity, other, found in rows]
