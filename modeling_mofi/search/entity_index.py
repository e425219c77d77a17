"""Which entity is this? Names what an image shows, out of entities that a checkpoint or its user knows."""

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from safetensors.torch import save_file

from ..data.entity_table import COLUMNS, EntityTable, ids_sha256
from ..hub.downloads import download, is_hub_id
from ..hub.templates import fill_card
from ..hub.uploads import upload_folder
from ..sharded_rows import load_rows, num_saved_rows
from ..whole_files import write_text
from .calibration import Calibration, fit_calibration
from .encoder import MofiEncoder, Queries
from .entity_index_files import (
    CARD,
    ENTITIES_NAME,
    SETTINGS_NAME,
    VECTORS_NAME,
    Entities,
    read_vectors,
)
from .model_loading import split_revision
from .vector_search import VectorSearch, check_lists


logger = logging.getLogger(__name__)

SOURCES = ("head", "text", "both")
# Only the best entities compete for probability; that of all others counts as zero.
NUM_WEIGHED = 100
# Half precision and quantized towers stay above this cosine with the checkpoint's own embeddings.
MIN_PROBE_COSINE = 0.95


@dataclass
class FoundEntity:
    """An entity that an image may show: `similarity` is a cosine, `confidence` a probability once calibrated."""

    entity_id: str
    name: str
    description: str
    similarity: float
    confidence: float | None = None


@dataclass
class EntityAnswer:
    """The best entities of one query, best first.

    Attributes:
        known_confidence: Probability that any known entity is shown; None before `calibrate`.
    """

    entities: list[FoundEntity]
    known_confidence: float | None = None

    @property
    def is_known(self) -> bool | None:
        """Whether an entity is shown rather than nothing known; None before `calibrate`."""
        return None if self.known_confidence is None else self.known_confidence >= 0.5


class EntityIndex:
    """Entities as vectors, searched exactly with images, texts or embeddings.

    Args:
        vectors: One per entity, `[N, D]`, in the precision to keep them in.
        entities: Columns `entity_id`, `name` and `description`, N values each.
        encoder: Embeds the queries.
        source: What the vectors come from: the head's rows, the text tower, or the mean of both.

    Raises:
        ValueError: If vectors, entities and encoder do not match.
    """

    def __init__(self, vectors: torch.Tensor, entities: Entities, encoder: MofiEncoder, *, source: str = "text"):
        check_lists(vectors=vectors, **{name: entities[name] for name in COLUMNS})
        entities = {name: [value or "" for value in entities[name]] for name in COLUMNS}
        check_distinct(entities["entity_id"])
        if vectors.shape[1] != encoder.projection_dim:
            raise ValueError(f"Vectors of size {vectors.shape[1]} do not fit a model of {encoder.projection_dim}.")
        self._search = VectorSearch(vectors)
        self.entities, self.encoder, self.source = entities, encoder, source
        self.calibration: Calibration | None = None

    @property
    def vectors(self) -> torch.Tensor:
        """One row per entity, `[N, D]`."""
        return self._search.vectors

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | os.PathLike,
        *,
        source: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> "EntityIndex":
        """Builds the index from a checkpoint with `entities.parquet`, in a folder or on the Hub.

        Args:
            source: `head`, `text` or `both`; by default `both` if the checkpoint has a head, else `text`.
            dtype: In which the vectors are kept.

        Raises:
            ValueError: If the checkpoint lacks what `source` needs, or its parts do not belong together.
        """
        patterns = ["*.json", "*.safetensors", "*.parquet", "tokenizer*", "vocab*", "merges.txt"]
        path, revision = split_revision(checkpoint)
        folder = download(path, patterns, revision=revision)
        path = folder / "entities.parquet"
        if not path.is_file():
            raise ValueError(f"{checkpoint} has no entities.parquet, so its entities have no names.")
        entities = EntityTable(path).to_lists()
        num_rows = num_saved_rows(folder, name="entity_head")
        source = source or ("both" if num_rows else "text")
        if source not in SOURCES:
            raise ValueError(f"source is {source!r}; it must be one of {', '.join(SOURCES)}.")
        if source != "text" and num_rows != len(entities["name"]):
            raise ValueError(
                f"{checkpoint} has {num_rows or 'no'} head rows and {len(entities['name'])} entities; they must be as "
                "many. Take both from one training run, or source='text'."
            )
        encoder = MofiEncoder.from_pretrained(checkpoint, device=device)
        trained_on = getattr(encoder.model.config, "entities_sha256", None)
        if source != "text" and trained_on not in (None, ids_sha256(entities["entity_id"])):
            raise ValueError(
                f"entities.parquet of {checkpoint} is not the one that its head was trained with: other entities, or "
                "another order. Take the one beside the training run's checkpoint, or source='text'."
            )
        vectors = entity_vectors(folder, entities, encoder, source=source)
        return cls(vectors.to(dtype), entities, encoder, source=source)

    def add_entities(
        self, names: Sequence[str], descriptions: Sequence[str | None], *, entity_ids: Sequence[str] | None = None
    ) -> None:
        """Adds entities by their texts, without training.

        Cosines with texts are smaller than with the head's rows; an index that mixes both should be recalibrated.

        Args:
            entity_ids: By default `user:` and the name.

        Raises:
            ValueError: If an id is in the index already or given twice, or the lists are of unequal length.
        """
        check_lists(names=names, descriptions=descriptions)
        if entity_ids is None:
            entity_ids = [f"user:{name}" for name in names]
        check_lists(names=names, entity_ids=entity_ids)
        check_distinct(entity_ids)
        if known := set(entity_ids) & set(self.entities["entity_id"]):
            raise ValueError(f"The index has {', '.join(sorted(known)[:3])} already.")
        vectors = self.encoder.encode_entities(names, descriptions).to(self.vectors.dtype)
        added = {
            "entity_id": list(entity_ids),
            "name": list(names),
            "description": [text or "" for text in descriptions],
        }
        self._search = VectorSearch(torch.cat([self.vectors, vectors]))
        self.entities = {name: self.entities[name] + added[name] for name in COLUMNS}

    def search(self, queries: Queries, *, k: int = 5) -> list[EntityAnswer]:
        """Finds the k entities most similar to each image, image file, text or embedding; one of them is one query."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        similarities, rows = self._search.top_k(self.encoder.encode(queries), k=max(k, NUM_WEIGHED))
        confidences = None if self.calibration is None else self.calibration.confidences(similarities)
        return [self._answer(place, similarities, rows, confidences, k) for place in range(len(rows))]

    def _answer(
        self,
        place: int,
        similarities: torch.Tensor,
        rows: torch.Tensor,
        confidences: torch.Tensor | None,
        k: int,
    ) -> EntityAnswer:
        found = []
        for column, row in enumerate(rows[place, :k].tolist()):
            entity = FoundEntity(
                *(self.entities[name][row] for name in COLUMNS), similarity=similarities[place, column].item()
            )
            entity.confidence = None if confidences is None else confidences[place, column].item()
            found.append(entity)
        return EntityAnswer(found, None if confidences is None else confidences[place].sum().item())

    def calibrate(self, queries: Queries, entity_ids: Sequence[str | None]) -> Calibration:
        """Fits the confidences to labeled images that training has not seen, and keeps the fit.

        Args:
            entity_ids: What each image shows; None, or an id that is not in the index, for nothing known.

        Raises:
            ValueError: If there is not one id per query, or no image of a known entity.
        """
        similarities, rows = self._search.top_k(self.encoder.encode(queries), k=NUM_WEIGHED)
        check_lists(queries=rows, entity_ids=entity_ids)
        places = {entity_id: row for row, entity_id in enumerate(self.entities["entity_id"])}
        wanted = torch.tensor([places.get(entity_id, -1) for entity_id in entity_ids])
        is_right = (rows == wanted[:, None]) & (wanted >= 0)[:, None]
        targets = is_right.int().argmax(dim=1).where(is_right.any(dim=1), -1)
        self.calibration = fit_calibration(similarities, targets)
        return self.calibration

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes vectors (safetensors), entities (Parquet) and settings (JSON) to a folder, without the model."""
        name = self.encoder.name
        # A relative path would mean another folder where the index is loaded from.
        self._write(Path(folder), checkpoint=str(Path(name).resolve()) if name and Path(name).is_dir() else name)

    def _write(self, folder: Path, *, checkpoint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"vectors": self.vectors.contiguous(), "probe": probe(self.encoder)}
        save_file(
            tensors,
            folder / VECTORS_NAME,
            metadata={"format": "pt", "entities": ids_sha256(self.entities["entity_id"])},
        )
        pq.write_table(pa.table(self.entities), folder / ENTITIES_NAME)
        calibration = None if self.calibration is None else asdict(self.calibration)
        settings = {"checkpoint": checkpoint, "source": self.source, "calibration": calibration}
        (folder / SETTINGS_NAME).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def push_to_hub(
        self, repo_id: str, *, checkpoint: str | None = None, private: bool | None = None, token: str | None = None
    ) -> str:
        """Publishes the index in its own repository, and returns the commit's URL.

        Args:
            checkpoint: Where the Hub has the model; by default the id it was loaded from, if that is on the Hub.

        Raises:
            ValueError: If it is not known where the Hub has the model.
            ConnectionError, PermissionError: As `publish_checkpoint`.
        """
        checkpoint = checkpoint or split_revision(self.encoder.name)[0]
        if not is_hub_id(checkpoint):
            raise ValueError(
                f"The index was made with {checkpoint or 'a model in memory'}, which others do not have. Publish that "
                'model first, then say where: index.push_to_hub(..., checkpoint="user/model").'
            )
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder), checkpoint=checkpoint)
            tags = ["mofi", "entity-recognition"]
            metadata = ModelCardData(library_name="transformers", tags=tags, base_model=checkpoint)
            card = fill_card(CARD, ModelCard, metadata, repo_id=repo_id, checkpoint=checkpoint, count=len(self))
            write_text(Path(folder) / "README.md", card)
            return upload_folder(
                folder,
                repo_id,
                patterns=["entity_index.*", "README.md"],
                commit_message="Upload entity index",
                private=private,
                token=token,
                kept="the index is still in memory",
            )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, encoder: MofiEncoder | None = None, device: str = "cpu"
    ) -> "EntityIndex":
        """Reads what `save_pretrained` or `push_to_hub` wrote, from a folder or a repository on the Hub.

        Args:
            encoder: Embeds the queries; by default the checkpoint that the index was made with.

        Raises:
            ValueError: If a file is missing, damaged, or belongs to another index or another model.
        """
        path, revision = split_revision(name)
        folder = download(path, ["entity_index.*"], revision=revision)
        if missing := [name for name in (VECTORS_NAME, ENTITIES_NAME, SETTINGS_NAME) if not (folder / name).is_file()]:
            raise ValueError(f"{folder} is no saved index: it has no {', '.join(missing)}.")
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        entities = EntityTable(folder / ENTITIES_NAME).to_lists()
        vectors, written_probe = read_vectors(folder / VECTORS_NAME, entities)
        encoder = encoder or MofiEncoder.from_pretrained(settings["checkpoint"], device=device)
        index = cls(vectors, entities, encoder, source=settings["source"])
        cosine = (probe(encoder) * written_probe).sum(dim=-1).min().item()
        if cosine < MIN_PROBE_COSINE:
            raise ValueError(
                f"{name} was made with another model than {encoder.name or 'this one'} (cosine {cosine:.2f} of their "
                f"embeddings); pass an encoder of {settings['checkpoint']}, or rebuild the index."
            )
        if settings["calibration"] is not None:
            index.calibration = Calibration(**settings["calibration"])
        return index


def check_distinct(entity_ids: Sequence[str]) -> None:
    """Refuses ids that occur twice: the index could not say which of their rows is meant."""
    if len(set(entity_ids)) < len(entity_ids):
        repeated = [entity_id for entity_id, count in Counter(entity_ids).items() if count > 1]
        raise ValueError(f"{len(repeated)} entity ids occur more than once: {', '.join(map(str, repeated[:3]))}.")


def probe(encoder: MofiEncoder) -> torch.Tensor:
    """Embeddings of one fixed image and one fixed text `[2, D]`, by which a model is recognized."""
    image = Image.linear_gradient("L").convert("RGB")
    return torch.cat([encoder.encode_images([image]), encoder.encode_texts(["a probe"])])


def entity_vectors(folder: Path, entities: Entities, encoder: MofiEncoder, *, source: str) -> torch.Tensor:
    """One vector per entity `[N, D]`; for `both` the inner product with it is the mean of the two cosines."""
    parts = []
    if source != "text":
        rows = load_rows(folder, name="entity_head", first_row=0, end_row=len(entities["name"]))["weight"]
        parts.append(torch.nn.functional.normalize(rows.float(), dim=-1))
    if source != "head":
        parts.append(encoder.encode_entities(entities["name"], entities["description"]))
    return torch.stack(parts).mean(dim=0)
