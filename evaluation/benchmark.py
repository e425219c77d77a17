"""What to evaluate on: one benchmark is a task with its data; a recipe may hold many, by name."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from evaluation.embed import Embedded, embed
from evaluation.embed_texts import embed_texts
from evaluation.encoders import Encoder
from evaluation.labeled_images import LabeledImages, open_images
from evaluation.listed_sets import open_listed_images
from modeling_mofi.recipe_parser import check_choices


Task = Literal[
    "retrieval",
    "listed_retrieval",
    "gpr1200",
    "knn",
    "zero_shot",
    "linear_probe",
    "image_text_retrieval",
    "entity_recognition",
]
EntityText = Literal["name_and_description", "name"]
WITHOUT_LABELS = {"gpr1200", "image_text_retrieval", "listed_retrieval"}
LABEL_COLUMNS = ("label", "entity_labels")  # Of class folders, and of I2E.


@dataclass
class Benchmark:
    """A task with its data. In a recipe, `benchmarks` maps a name to those of these keys that differ."""

    task: Task = field(default="retrieval", metadata={"help": "What is asked of the model."})
    data: str | None = field(default=None, metadata={"help": "Parquet file, folder of images, or id[:config]."})
    revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch of data on the Hub."})
    split: str | None = field(default=None, metadata={"help": "Needed where the dataset has several."})
    gallery: str | None = field(default=None, metadata={"help": "Dataset to search or train on."})
    gallery_split: str | None = field(default=None, metadata={"help": "Its split; alone, of the same dataset."})
    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the class or classes; by default 'label', else I2E's 'entity_labels'."},
    )
    caption_column: str | None = field(default=None, metadata={"help": "Names on figures; else the labels."})
    color_column: str | None = field(default=None, metadata={"help": "Groups on the map of embeddings; else labels."})
    image_column: str | None = field(default=None, metadata={"help": "By default 'image', else the only one."})
    id_column: str | None = field(default=None, metadata={"help": "By default image_id, file name or row number."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of image files; by default the data's."})
    limit: int | None = field(default=None, metadata={"help": "Only the first rows."})
    keep_query: bool = field(default=False, metadata={"help": "retrieval: a query may find itself, as in GPR1200."})
    one_query_per_class: bool = field(default=False, metadata={"help": "retrieval: first images search the others."})
    protocol: str = field(default="listed", metadata={"help": "listed_retrieval: 'listed', or 'revisited' with junk."})
    ks: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 50, 100, 200], metadata={"help": "knn: voters."})
    temperature: float = field(default=0.07, metadata={"help": "knn: of the weighted vote."})
    prompts: str = field(default="configs/zero_shot_prompts.json:general", metadata={"help": "zero_shot: templates."})
    class_names: str | None = field(default=None, metadata={"help": "zero_shot: file with the names of the classes."})
    text_column: str | None = field(default=None, metadata={"help": "image_text_retrieval: one text, or several."})
    regularization: list[float] = field(
        default_factory=lambda: [0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5], metadata={"help": "linear_probe: C."}
    )
    entities: str | None = field(
        default=None,
        metadata={"help": "entity_recognition: .parquet or JSON lines; else the model's own table."},
    )
    candidates: Literal["all", "labeled"] = field(
        default="all", metadata={"help": "entity_recognition: 'all' of that table, or those 'labeled' in the data."}
    )
    entity_text: EntityText = field(
        default="name_and_description", metadata={"help": "entity_recognition: what is read of an entity, or 'name'."}
    )
    knowledge_base: str | None = field(default=None, metadata={"help": "entity_recognition: texts of unseen ones."})

    nil: bool = field(default=False, metadata={"help": "entity_recognition: others than the candidates are NIL."})

    def __post_init__(self) -> None:
        check_choices(self)

    def open(self, *, is_gallery: bool = False) -> LabeledImages | None:
        """Opens the query images or the gallery; None where there is no gallery."""
        data = self.gallery or (self.data if self.gallery_split else None) if is_gallery else self.data
        if self.task == "listed_retrieval":
            options = {"revision": self.revision, "limit": None if is_gallery else self.limit}
            split = self.gallery_split if is_gallery else self.split
            return open_listed_images(self.data, "corpus" if is_gallery else "query", split=split, **options)
        if data is None and is_gallery:
            return None
        return open_images(
            data,
            label_column=self.label_column or (None if self.task in WITHOUT_LABELS else LABEL_COLUMNS),
            image_column=self.image_column,
            id_column=self.id_column,
            image_root=self.image_root,
            split=self.gallery_split if is_gallery else self.split,
            revision=self.revision if data == self.data else None,
            keep_unlabeled=self.nil,
            limit=self.limit,
        )


@dataclass
class Embedder:
    """An encoder with how to run and where to keep what it computes."""

    encoder: Encoder
    cache_dir: Path
    batch_size: int = 64
    num_workers: int | None = None

    def __call__(self, images: LabeledImages) -> Embedded:
        return embed(
            self.encoder,
            images,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            cache_dir=self.cache_dir,
        )

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """fp32 features of shape (len(texts), D), not normalized, on the encoder's device."""
        return embed_texts(self.encoder, texts, batch_size=self.batch_size, cache_dir=self.cache_dir)


@dataclass
class Scores:
    """What a task found for one model.

    Attributes:
        by_query: For each metric one float64 per query, NaN for a query that does not count; the mean is the result.
        counts: Numbers that belong beside the result.
        chosen: Settings that the task chose itself.
        curves: Points by name, for figures.
        query, gallery: The embeddings, for figures.
    """

    by_query: dict[str, np.ndarray]
    query: Embedded
    gallery: Embedded | None = None
    counts: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def embedded_labels(images: LabeledImages, embedded: Embedded) -> list[Any]:
    """The label of each embedding."""
    return [images.labels[row] for row in embedded.rows]


def read_benchmarks(settings: dict[str, dict[str, Any]], default: Benchmark) -> dict[str, Benchmark]:
    """Benchmarks by name from a recipe's `benchmarks`, or the one that the flags describe.

    Raises:
        ValueError: If a benchmark has an unknown key, with the nearest known one, or an unknown value.
    """
    if not settings:
        return {Path(default.data or "").stem or default.task: default}
    known = [known_field.name for known_field in dataclasses.fields(Benchmark)]
    benchmarks = {}
    for name, values in settings.items():
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise ValueError(f"Benchmark {name!r} has the unknown key {key!r}{hint}.")
        try:
            benchmarks[name] = dataclasses.replace(default, **values)
        except ValueError as error:
            raise ValueError(f"Benchmark {name!r}: {error}") from None
    return benchmarks
