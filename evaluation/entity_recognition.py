"""Entity recognition: does the right entity come first, by the head, by the text tower, or by both?"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.json
import pyarrow.parquet as pq
import torch
from torch.nn import functional as F

from evaluation.benchmark import Benchmark, Embedder, Scores, embedded_labels
from evaluation.encoders import UnfitModelError
from evaluation.labelled_images import LabelledImages
from metrics.recall_at_k.recall_at_k import best_rank, recall
from modeling_mofi.pretraining_mofi import HEAD_NAME
from modeling_mofi.processing_mofi import MofiProcessor
from modeling_mofi.row_files_mofi import load_rows, num_saved_rows


logger = logging.getLogger(__name__)

KS = (1, 5)
BANDS = ((1, 9), (10, 99), (100, 999), (1000, None))  # Images of an entity in the training data.


@dataclass
class Entities:
    """Candidates of recognition, one per row of a head.

    Attributes:
        texts: What the text tower reads of an entity: name and description.
        num_images: Images of the entity in the training data, 0 where that is not known.
    """

    entity_ids: list[str]
    texts: list[str]
    num_images: np.ndarray


def evaluate_entity_recognition(
    benchmark: Benchmark, embedder: Embedder, *, query: LabelledImages, gallery: LabelledImages | None = None
) -> Scores:
    """Ranks the entities for each image; the label column holds their `entity_id`.

    Seen entities, those of `entities.parquet`, are ranked among themselves, by every way that the model has. Unseen
    ones are ranked by the text tower among the seen ones and one another; `knowledge_base` gives their texts.
    """
    folder = Path(embedder.encoder.name)
    seen = read_entities(benchmark.entities or find_entities(folder))
    embedded = embedder(query)
    labels = [str(label) for label in embedded_labels(query, embedded)]
    image_embeds = embedded.image_embeds.to(embedder.encoder.device)
    text_embeds = None
    if embedder.encoder.has_text_tower:
        text_embeds = F.normalize(embedder.embed_texts(seen.texts), dim=1)
    ways = recognize(image_embeds, labels, seen.entity_ids, read_head(folder, len(seen.entity_ids)), text_embeds)
    if not ways:
        raise UnfitModelError(f"{embedder.encoder.name} has neither an entity head nor a text tower.")
    scores = scores_by_band(ways, labels, seen)
    unseen = unseen_entities(benchmark.knowledge_base, set(labels) - set(seen.entity_ids))
    if unseen and text_embeds is not None:
        all_embeds = torch.cat([text_embeds, F.normalize(embedder.embed_texts(unseen.texts), dim=1)])
        ranks = best_rank(image_embeds, labels, all_embeds, seen.entity_ids + unseen.entity_ids)
        is_unseen = np.isin(labels, unseen.entity_ids)
        scores |= {f"text top-{k}, unseen": np.where(is_unseen, recall(ranks, k), np.nan) for k in KS}
    counts = {"entities": len(seen.entity_ids), "unseen_entities": len(unseen.entity_ids) if unseen else 0}
    return Scores(scores, query=embedded, counts=counts)


def recognize(
    image_embeds: torch.Tensor,
    labels: list[str],
    entity_ids: list[str],
    head: torch.Tensor | None,
    text_embeds: torch.Tensor | None,
) -> dict[str, np.ndarray]:
    """Rank of the right entity by way of naming it, float64 of shape (images,), NaN where it is no candidate.

    Args:
        image_embeds: Unit-length, shape (images, D).
        head: Unit-length rows of shape (entities, D), or None.
        text_embeds: Unit-length rows of shape (entities, D), or None. `both` takes the mean of the two cosines.
    """
    ways = {}
    if head is not None:
        head = head.to(image_embeds.device)
        ways["head"] = best_rank(image_embeds, labels, head, entity_ids)
    if text_embeds is not None:
        ways["text"] = best_rank(image_embeds, labels, text_embeds, entity_ids)
    if len(ways) == 2:
        joined = torch.cat([head, text_embeds], dim=1) / 2
        ways["both"] = best_rank(image_embeds.repeat(1, 2), labels, joined, entity_ids)
    return ways


def scores_by_band(ways: dict[str, np.ndarray], labels: list[str], seen: Entities) -> dict[str, np.ndarray]:
    """Top-1 and top-5 of each way, and its top-1 for entities with few and with many training images."""
    num_images = dict(zip(seen.entity_ids, seen.num_images.tolist(), strict=True))
    counts = np.array([num_images.get(label, 0) for label in labels])
    scores = {f"{way} top-{k}": recall(ranks, k) for way, ranks in ways.items() for k in KS}
    for low, high in BANDS:
        is_inside = (counts >= low) & (counts <= (high or np.inf))
        if is_inside.any():
            name = f"{low}-{high} images" if high else f"{low}+ images"
            scores |= {f"{way} top-1, {name}": np.where(is_inside, recall(r, 1), np.nan) for way, r in ways.items()}
    return scores


def find_entities(folder: Path) -> str:
    """`entities.parquet` of a checkpoint."""
    path = folder / "entities.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give --entities, the entities.parquet of the training data.")
    return str(path)


def read_entities(path: str) -> Entities:
    """Reads `entities.parquet`, or a knowledge base in JSON lines, gzipped or not.

    Raises:
        ValueError: If a column is missing or `entities.parquet` is not in the order of its labels.
    """
    table = pq.read_table(path) if path.endswith(".parquet") else pyarrow.json.read_json(path)
    missing = {"entity_id", "name", "description"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}.")
    if "entity_label" in table.column_names and table["entity_label"].to_pylist() != list(range(len(table))):
        raise ValueError(f"{path}: row i must hold entity_label i; rebuild with --restart_from label_entities.")
    names, descriptions = table["name"].to_pylist(), table["description"].to_pylist()
    counts = table["count"].to_numpy() if "count" in table.column_names else np.zeros(len(table), dtype=np.int64)
    texts = [MofiProcessor.entity_text(*entity) for entity in zip(names, descriptions, strict=True)]
    return Entities([str(entity_id) for entity_id in table["entity_id"].to_pylist()], texts, counts)


def unseen_entities(knowledge_base: str | None, entity_ids: set[str]) -> Entities | None:
    """The entities of the knowledge base with these ids; None if there is no knowledge base or none of them."""
    if not entity_ids:
        return None
    if knowledge_base is None:
        logger.warning("%d entities are not in entities.parquet; --knowledge_base would name them", len(entity_ids))
        return None
    known = read_entities(knowledge_base)
    kept = [place for place, entity_id in enumerate(known.entity_ids) if entity_id in entity_ids]
    if len(kept) < len(entity_ids):
        logger.warning("%d entities are in neither table and do not count", len(entity_ids) - len(kept))
    if not kept:
        return None
    return Entities([known.entity_ids[i] for i in kept], [known.texts[i] for i in kept], known.num_images[kept])


def read_head(folder: Path, num_entities: int) -> torch.Tensor | None:
    """Unit-length rows of a checkpoint's entity head, shape (num_entities, D); None where there is no head.

    Raises:
        ValueError: If head and `entities.parquet` are of different builds.
    """
    saved = num_saved_rows(folder, name=HEAD_NAME)
    if saved is None:
        logger.warning("%s has no entity head", folder)
        return None
    if saved != num_entities:
        raise ValueError(
            f"The entity head in {folder} has {saved} rows, but entities.parquet {num_entities}. They are of "
            "different builds; give --entities, the entities.parquet that the model was trained on."
        )
    rows = load_rows(folder, name=HEAD_NAME, first_row=0, end_row=num_entities)["weight"]
    return F.normalize(rows.float(), dim=1)
