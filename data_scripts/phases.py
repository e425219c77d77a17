"""The jobs of a build as data: which stages with which settings, what each depends on, and where its files go."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import spacy
import torch

from data_scripts.arguments import BuildArguments, SourceArguments
from data_scripts.engine.files import hash_settings
from data_scripts.engine.job_array import JobArray
from data_scripts.engine.jobs import Group, Job
from data_scripts.engine.stages import Stages, Step, group_shards, stages_job
from data_scripts.images.decode_images import decode_images
from data_scripts.images.filter_entities import Thresholds, filter_entities
from data_scripts.images.filter_model import prepare_image
from data_scripts.images.score_entities import score_entities
from data_scripts.knowledge_base.store import open_knowledge_base, read_manifest
from data_scripts.linking.link_entities import link_entities
from data_scripts.linking.link_weights import default_weights
from data_scripts.linking.recognize_mentions import recognize_mentions
from data_scripts.schema import Batch, Shard, filtered_schema, linked_schema, scored_schema
from data_scripts.sources.pairs import read_images, read_pairs
from modeling_mofi.search.model_loading import fingerprint_model, load_config


LIBRARIES = ("datasets", "marisa-trie", "numpy", "pillow", "pyarrow", "scipy", "spacy", "torch", "transformers")
READ_BATCH_SIZE = 1000
SCORED_ROW_GROUP_SIZE = 256
# Small shards are scored together until so many batches are full: at most one in five is not.
MIN_BATCHES_PER_GROUP = 4
LOOKAHEAD_BATCHES = 2


@dataclass(frozen=True)
class Build:
    """A planned build.

    Attributes:
        shards: The plan of the source.
        knowledge_base: Folder of the built knowledge base.
        keep_columns: Types of the columns that are passed through.
    """

    args: BuildArguments
    shards: tuple[Shard, ...]
    knowledge_base: str
    keep_columns: dict[str, pa.DataType]

    @property
    def output_dir(self) -> Path:
        """Folder of the dataset."""
        return Path(self.args.run.output_dir)

    @property
    def stages_dir(self) -> Path:
        """Folder of what lies between the source and the dataset."""
        return self.output_dir / "stages"

    def stage_file(self, stage: str, shard: Shard) -> Path:
        """What a stage leaves of a shard."""
        return self.stages_dir / stage / f"{shard.name}.parquet"

    @property
    def statistics(self) -> Path:
        """File of `learn_statistics`."""
        return self.stages_dir / "learn_statistics" / "statistics.npz"

    @property
    def text_embeddings(self) -> Path:
        """Folder of `embed_entities`, another one for other entities, another template or model."""
        return self.stages_dir / "embed_entities" / self.config_hash("score_entities")[:16]

    @property
    def array(self) -> JobArray:
        """This task's place among those that build the dataset."""
        run = self.args.run
        return JobArray(run.num_shards, run.shard_index, run.wait_seconds)

    @cached_property
    def settings(self) -> dict[str, dict[str, object]]:
        """What each phase depends on beyond the phase before it; files stand for their content."""
        source = [plan_entry(shard) for shard in self.shards]
        return {
            "link_entities": self.args.link_settings()
            | {
                "pairs": hash_settings(source),
                "knowledge_base": read_manifest(Path(self.knowledge_base))["content_hash"],
                "keep_types": {name: str(kind) for name, kind in self.keep_columns.items()},
                "link_weights": hash_settings(vars(default_weights())),
            },
            "score_entities": self.args.score_settings()
            | {"filter_model": fingerprint_model(self.args.filter.filter_model)},
            "label_entities": self.args.label_settings(),
        }

    def config_hash(self, phase: str) -> str:
        """Hash of everything a phase depends on."""
        names = list(self.settings)
        return hash_settings([self.settings[name] for name in names[: names.index(phase) + 1]])

    @property
    def build_id(self) -> str:
        """Names the dataset: equal for equal sources, settings and models."""
        return self.config_hash("label_entities")[:16]


def plan_entry(shard: Shard) -> list[object]:
    """What the rows of a shard depend on, wherever its file lies."""
    entry = [shard.path.rpartition("/")[2], shard.start, shard.stop, shard.fingerprint]
    return entry if shard.max_rows is None else [*entry, shard.max_rows]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide about bytes."""
    return {name: version(name) for name in LIBRARIES}


def check_models(args: BuildArguments) -> None:
    """Looks for the models before any work is done.

    Raises:
        ValueError: If one is not there, or could not be opened safely.
    """
    try:
        load_config(args.filter.filter_model)
    except (OSError, ValueError) as error:
        raise ValueError(f"filter_model {error}") from None
    spacy_model = args.link.spacy_model
    if spacy_model is not None and not (spacy.util.is_package(spacy_model) or Path(spacy_model).exists()):
        raise ValueError(
            f"spacy_model {spacy_model} is not installed; `python -m spacy download {spacy_model}` gets spaCy's own"
        )


def link_job(build: Build) -> Job:
    """The text phase: pairs to candidates."""
    link = build.args.link
    off = {"coherence": not link.coherence, "text": not link.text_similarity}
    weights = default_weights().without(*(part for part, is_off in off.items() if is_off))
    recognize = partial(
        recognize_mentions,
        knowledge_base=build.knowledge_base,
        language=link.language,
        spacy_model=link.spacy_model,
        typos=str(build.statistics) if link.typos else None,
    )
    linker = partial(
        link_entities,
        knowledge_base=build.knowledge_base,
        statistics=str(build.statistics),
        weights=weights,
        min_probability=link.min_probability,
        min_candidate_probability=None if link.disambiguation == "text" else link.min_candidate_probability,
    )
    stages = Stages(
        read=partial(read_pairs, source=build.args.source, batch_size=READ_BATCH_SIZE),
        steps=(Step("recognize_mentions", recognize), Step("link_entities", linker)),
        schema=linked_schema(build.keep_columns),
        reading="read_pairs",
    )
    return stages_job(
        "link_entities",
        build.stages_dir / "link_entities",
        build.config_hash("link_entities"),
        stages,
        versions=library_versions(),
        max_unreadable=build.args.run.max_unreadable,
    )


def score_job(build: Build) -> Job:
    """The image phase: candidates to similarities, images as they will be published."""
    options = build.args.filter
    num_threads = decode_threads(build.args.run.decode_threads)
    prepare = partial(prepare_image, filter_model=options.filter_model)
    decode = partial(
        decode_images,
        image_size=options.image_size,
        prepare=prepare,
        num_threads=num_threads,
        memory=int(build.args.run.decode_memory * 2**30),
    )
    score = partial(score_entities, filter_model=options.filter_model, text_embeddings=str(build.text_embeddings))
    linked = build.stages_dir / "link_entities"
    stages = Stages(
        read=partial(read_linked, linked=linked, source=build.args.source, batch_size=options.batch_size),
        steps=(
            Step("decode_images", decode),
            Step("score_entities", score, options.batch_size, lookahead=LOOKAHEAD_BATCHES if num_threads else 0),
        ),
        schema=scored_schema(build.keep_columns),
        row_group_size=SCORED_ROW_GROUP_SIZE,
        reading="decode_images",
    )
    return stages_job(
        "score_entities",
        build.stages_dir / "score_entities",
        build.config_hash("score_entities"),
        stages,
        versions=library_versions(),
        max_unreadable=build.args.run.max_unreadable,
        uses_gpu=True,
    )


def score_groups(build: Build) -> list[Group]:
    """The shards as the image phase takes them: neighbours together until they fill some batches."""
    min_rows = MIN_BATCHES_PER_GROUP * build.args.filter.batch_size
    return group_shards(build.shards, before=link_job(build), min_rows=min_rows)


def decode_threads(setting: int | None) -> int:
    """Threads that decode ahead of the model: by default this machine's cores per GPU; none without a GPU."""
    if setting is not None:
        return setting
    num_gpus = torch.cuda.device_count()
    return max(1, (os.cpu_count() or 1) // num_gpus) if num_gpus else 0


def filter_job(build: Build, thresholds: Thresholds) -> Job:
    """Similarities to entities that the image shows; reads no image."""
    types_of = partial(entity_types, build.knowledge_base) if thresholds.by_type else None
    choose = partial(
        filter_entities,
        disambiguation=build.args.link.disambiguation,
        thresholds=thresholds,
        types_of=types_of,
    )
    read = partial(read_scored, scored=build.stages_dir / "score_entities")
    return stages_job(
        "filter_entities",
        build.stages_dir / "filter_entities",
        hash_settings([build.config_hash("label_entities"), vars(thresholds)]),
        Stages(read, (Step("filter_entities", choose),), filtered_schema()),
        versions=library_versions(),
        is_short=True,
    )


def read_linked(shard: Shard, *, linked: Path, source: SourceArguments, batch_size: int) -> Iterator[Batch]:
    """Batches of the text phase with the images of their rows."""
    table = pq.read_table(linked / f"{shard.name}.parquet")
    rows = table["row"].to_pylist()
    images = read_images(shard, source=source, rows=rows)
    for first in range(0, len(rows), batch_size):
        batch = table.slice(first, batch_size).to_pydict()
        batch["image"] = []
        for row in batch["row"]:
            found, image = next(images, (None, None))
            if found != row:
                raise ValueError(f"{shard.path} has no row {row} any more: it changed since the text phase")
            batch["image"].append(image)
        yield batch


def read_scored(shard: Shard, *, scored: Path) -> Iterator[Batch]:
    """Batches of the image phase without the images."""
    file = pq.ParquetFile(scored / f"{shard.name}.parquet")
    for batch in file.iter_batches(READ_BATCH_SIZE, columns=["image_id", "row", "candidates", "control"]):
        yield batch.to_pydict()


@lru_cache(maxsize=100_000)
def entity_types(knowledge_base: str, entity_id: str) -> list[str]:
    """Types of an entity."""
    kb = open_knowledge_base(knowledge_base)
    return kb.column("types", kb.rows_of([entity_id]))[0]
