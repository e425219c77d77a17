"""Entity recognition: does the right entity come first, by the head, by the text tower, or by both?"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import torch
from huggingface_hub import snapshot_download
from torch.nn import functional as F

from evaluation.benchmark import Benchmark, Embedder, EntityText, Scores, embedded_labels
from evaluation.encoders import Encoder, TransformersEncoder, UnfitModelError
from evaluation.label_sets import classes_of, labels_of
from evaluation.labeled_images import LabeledImages
from evaluation.open_set import best_scores, open_set_curve, open_set_scores
from metrics.recall_at_k.recall_at_k import best_rank, recall
from modeling_mofi.data.entity_table import COLUMNS, EntityTable
from modeling_mofi.data.parquet_rows import check_columns
from modeling_mofi.pretraining import HEAD_NAME
from modeling_mofi.processing_mofi import MofiProcessor
from modeling_mofi.search.model_loading import split_revision
from modeling_mofi.sharded_rows import load_rows, num_saved_rows


logger = logging.getLogger(__name__)

KS = (1, 5)
TABLE_NAME = "entities.parquet"
BANDS = ((1, 9), (10, 99), (100, 999), (1000, None))  # Images of an entity in the training data.


@dataclass
class Entities:
    """Candidates of recognition.

    Attributes:
        texts: What the text tower reads of an entity.
        num_images: Images of the entity in the training data, 0 where that is not known.
    """

    entity_ids: list[str]
    texts: list[str]
    num_images: np.ndarray

    def only(self, entity_ids: set[str]) -> "Entities":
        """Those with one of these ids, in the same order."""
        kept = [place for place, entity_id in enumerate(self.entity_ids) if entity_id in entity_ids]
        return Entities([self.entity_ids[i] for i in kept], [self.texts[i] for i in kept], self.num_images[kept])


def evaluate_entity_recognition(
    benchmark: Benchmark, embedder: Embedder, *, query: LabeledImages, gallery: LabeledImages | None = None
) -> Scores:
    """Ranks the entities for each image; the label column holds their `entity_id`, one or several.

    Of several, an image is named right at k if any is among the first k.

    Candidates, the rows of `entities` or else of the model's own `entities.parquet`, are ranked among themselves, by
    every way that the model has. Entities that are no candidates are ranked by the text tower among the candidates and
    one another; `knowledge_base` gives their texts.
    """
    folder = checkpoint_folder(embedder.encoder)
    embedded = embedder(query)
    labels = [tuple(map(str, labels_of(label))) for label in embedded_labels(query, embedded)]
    labeled = set(classes_of(labels))
    candidates = read_candidates(benchmark, folder, labeled)
    image_embeds = embedded.image_embeds.to(embedder.encoder.device)
    text_embeds = None
    if embedder.encoder.has_text_tower:
        text_embeds = F.normalize(embedder.embed_texts(candidates.texts), dim=1)
    head = read_head(benchmark, folder, candidates.entity_ids)
    ways = recognize(image_embeds, labels, candidates.entity_ids, head, text_embeds)
    if not ways:
        raise UnfitModelError(f"{embedder.encoder.name} has neither a text tower nor a head for these entities.")
    scores = scores_by_band(ways, labels, candidates)
    if benchmark.nil:
        is_nil = np.array([set(candidates.entity_ids).isdisjoint(label) for label in labels])
        added, curves = name_in_the_open(ways, is_nil, image_embeds, head, text_embeds)
        counts = {"entities": len(candidates.entity_ids), "nil_images": int(is_nil.sum())}
        return Scores(scores | added, query=embedded, counts=counts, curves=curves)
    unseen = unseen_entities(benchmark, labeled - set(candidates.entity_ids))
    if unseen is None and not labeled & set(candidates.entity_ids):
        raise ValueError(
            f"No label of {query.name} is an entity_id of the candidates: {labels[0][0]!r}, ... against "
            f"{candidates.entity_ids[0]!r}, ...; give the --label_column that holds their ids."
        )
    if unseen and text_embeds is not None:
        all_embeds = torch.cat([text_embeds, F.normalize(embedder.embed_texts(unseen.texts), dim=1)])
        ranks = best_rank(image_embeds, labels, all_embeds, candidates.entity_ids + unseen.entity_ids)
        known, unknown = set(candidates.entity_ids), set(unseen.entity_ids)
        is_unseen = np.array([known.isdisjoint(label) and not unknown.isdisjoint(label) for label in labels])
        scores |= {f"text top-{k}, unseen": np.where(is_unseen, recall(ranks, k), np.nan) for k in KS}
    counts = {"entities": len(candidates.entity_ids), "unseen_entities": len(unseen.entity_ids) if unseen else 0}
    return Scores(scores, query=embedded, counts=counts)


def recognize(
    image_embeds: torch.Tensor,
    labels: list[tuple[str, ...]],
    entity_ids: list[str],
    head: torch.Tensor | None,
    text_embeds: torch.Tensor | None,
) -> dict[str, np.ndarray]:
    """Rank of the best right entity by way of naming it, float64 of shape (images,), NaN where none is a candidate.

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


def name_in_the_open(
    ways: dict[str, np.ndarray],
    is_nil: np.ndarray,
    image_embeds: torch.Tensor,
    head: torch.Tensor | None,
    text_embeds: torch.Tensor | None,
) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[float, float]]]]:
    """Open-set scores of each way and its curve.

    Raises:
        ValueError: If no image is NIL, or all are.
    """
    if is_nil.all() or not is_nil.any():
        raise ValueError(f"{int(is_nil.sum())} of {len(is_nil)} images are NIL; --nil needs such images and others.")
    entities = {"head": head, "text": text_embeds}
    if len(ways) == 2 + 1:
        entities["both"] = torch.cat([head.to(image_embeds.device), text_embeds], dim=1) / 2
    columns, curves = {}, {}
    for way, ranks in ways.items():
        queries = image_embeds.repeat(1, 2) if way == "both" else image_embeds
        best = best_scores(queries, entities[way])
        columns |= {f"{way} {name}": values for name, values in open_set_scores(best, ranks == 1, is_nil).items()}
        curves[way] = open_set_curve(best, ranks == 1, is_nil)
    return columns, curves


def scores_by_band(
    ways: dict[str, np.ndarray], labels: list[tuple[str, ...]], entities: Entities
) -> dict[str, np.ndarray]:
    """Top-1 and top-5 of each way, and its top-1 for entities with few and with many training images.

    An image with several entities counts with the one that has most training images: to name that one is enough.
    """
    num_images = dict(zip(entities.entity_ids, entities.num_images.tolist(), strict=True))
    counts = np.array([max((num_images.get(one, 0) for one in label), default=0) for label in labels])
    scores = {f"{way} top-{k}": recall(ranks, k) for way, ranks in ways.items() for k in KS}
    for low, high in BANDS:
        is_inside = (counts >= low) & (counts <= (high or np.inf))
        if is_inside.any():
            name = f"{low}-{high} images" if high else f"{low}+ images"
            scores |= {f"{way} top-1, {name}": np.where(is_inside, recall(r, 1), np.nan) for way, r in ways.items()}
    return scores


def checkpoint_folder(encoder: Encoder) -> Path:
    """The model's folder; of a model on the Hub a copy of its head and table, empty if it has neither."""
    if Path(encoder.name).is_dir() or not isinstance(encoder, TransformersEncoder):
        return Path(encoder.name)
    patterns = [TABLE_NAME, f"{HEAD_NAME}*.safetensors"]
    path, revision = split_revision(encoder.name)
    return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))


def read_candidates(benchmark: Benchmark, folder: Path, labeled: set[str]) -> Entities:
    """The entities to choose from, in the order of their table.

    Raises:
        ValueError: If no entity of the data is in the table.
        UnfitModelError: If no table is given and the model has none.
    """
    path = benchmark.entities or str(folder / TABLE_NAME)
    if not benchmark.entities and not Path(path).is_file():
        raise UnfitModelError(f"{path} does not exist; give --entities, the entities.parquet of the training data.")
    if path.endswith(".txt"):
        entities = read_listed_entities(path, benchmark)
    else:
        entities = read_entities(path, entity_text=benchmark.entity_text)
    if benchmark.candidates == "labeled":
        entities = entities.only(labeled)
        if not entities.entity_ids:
            raise ValueError(f"{path} has none of the {len(labeled)} entities of the data; give another --entities.")
    return entities


def read_listed_entities(path: str, benchmark: Benchmark) -> Entities:
    """The entities of a list of ids, one a line, with the texts that the knowledge base has for them.

    Raises:
        ValueError: If there is no knowledge base, or it lacks an entity.
    """
    if benchmark.knowledge_base is None:
        raise ValueError(f"{path} lists ids only; give --knowledge_base, which has their names.")
    entity_ids = set(Path(path).read_text(encoding="utf-8-sig").split())
    found = read_entities(benchmark.knowledge_base, entity_text=benchmark.entity_text).only(entity_ids)
    if lacking := sorted(entity_ids - set(found.entity_ids)):
        raise ValueError(f"{benchmark.knowledge_base} lacks {len(lacking)} entities of {path}: {lacking[:3]}, ...")
    return found


def read_entities(path: str, *, entity_text: EntityText = "name_and_description") -> Entities:
    """Reads `entities.parquet`, or a knowledge base in JSON lines, gzipped or not.

    Args:
        entity_text: `name_and_description`, or `name` alone.

    Raises:
        ValueError: If a column is missing, or `entities.parquet` is not in the order of its labels.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; give an entities.parquet or a knowledge base in JSON lines.")
    if path.endswith(".parquet"):
        table = EntityTable(path)
        columns, counts = table.to_lists(), table.counts
    else:
        columns = read_json_lines(path)
        counts = np.array(columns.get("count") or [0] * len(columns["name"]))
    names, descriptions = columns["name"], columns["description"]
    if entity_text == "name":
        descriptions = [None] * len(names)
    texts = [MofiProcessor.entity_text(*entity) for entity in zip(names, descriptions, strict=True)]
    return Entities([str(entity_id) for entity_id in columns["entity_id"]], texts, counts)


def read_json_lines(path: str) -> dict[str, list[Any]]:
    """Columns `entity_id`, `name`, `description` and, if there is one, `count` of a knowledge base in JSON lines."""
    table = pyarrow.json.read_json(path)
    check_columns(path, table.column_names, COLUMNS)
    return {name: table[name].to_pylist() for name in (*COLUMNS, "count") if name in table.column_names}


def unseen_entities(benchmark: Benchmark, entity_ids: set[str]) -> Entities | None:
    """The entities of the knowledge base with these ids; None if there is no knowledge base or none of them."""
    if not entity_ids:
        return None
    if benchmark.knowledge_base is None:
        logger.warning("%d entities are not among the candidates; --knowledge_base would name them", len(entity_ids))
        return None
    unseen = read_entities(benchmark.knowledge_base, entity_text=benchmark.entity_text).only(entity_ids)
    if len(unseen.entity_ids) < len(entity_ids):
        lacking = len(entity_ids) - len(unseen.entity_ids)
        logger.warning("%d entities are in neither table and do not count", lacking)
    return unseen if unseen.entity_ids else None


def read_head(benchmark: Benchmark, folder: Path, entity_ids: list[str]) -> torch.Tensor | None:
    """Unit-length rows of a checkpoint's head for these entities, shape (len(entity_ids), D).

    None where there is no head, or where it lacks one of the entities: its ranks would not compare with the texts'.

    Raises:
        ValueError: If head and `entities.parquet` are of different builds.
    """
    saved = num_saved_rows(folder, name=HEAD_NAME)
    if saved is None:
        logger.warning("%s has no entity head", folder)
        return None
    own = folder / TABLE_NAME
    table = read_entities(str(own) if own.is_file() else benchmark.entities)
    if saved != len(table.entity_ids):
        raise ValueError(
            f"The entity head in {folder} has {saved} rows, but entities.parquet {len(table.entity_ids)}. They are of "
            "different builds; put the entities.parquet that the model was trained on into its folder."
        )
    rows = {entity_id: row for row, entity_id in enumerate(table.entity_ids)}
    lacking = sum(entity_id not in rows for entity_id in entity_ids)
    if lacking:
        logger.warning("the head of %s is left out: it lacks %d of %d entities", folder, lacking, len(entity_ids))
        return None
    weight = load_rows(folder, name=HEAD_NAME, first_row=0, end_row=saved)["weight"]
    return F.normalize(weight[[rows[entity_id] for entity_id in entity_ids]].float(), dim=1)
