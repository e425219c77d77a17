"""The settings of a build, in the order the data meets them, and which stage each belongs to."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, get_args

from modeling_mofi.recipe_parser import check_choices, json_mapping


Stage = Literal["link_entities", "score_entities", "filter_entities", "label_entities"]
STAGES = get_args(Stage)
POSITIVE = (
    ("source", "rows_per_shard"),
    ("source", "limit"),
    ("filter", "batch_size"),
    ("filter", "image_size"),
    ("label", "min_images_per_entity"),
    ("label", "rows_per_file"),
    ("run", "num_processes"),
    ("run", "num_shards"),
)
# Columns that the stages or the dataset have themselves.
OWN_COLUMNS = ("image_id", "row", "image", "pixels", "alt_text", "mentions", "candidates", "entities", "entity_labels")
OWN_COLUMNS += ("drop_reason", "note", "split")


@dataclass
class SourceArguments:
    """Where the pairs come from. Only the named columns are read."""

    pairs: str = field(metadata={"help": "File, folder, pattern (`*.tar`, `{00..99}.tar`) or id on the Hub."})
    image_column: str = field(default="image", metadata={"help": "Bytes, {bytes, path}, or a path (not a URL)."})
    alt_text_column: str = field(default="alt_text", metadata={"help": "The text beside the image."})
    image_id_column: str | None = field(default=None, metadata={"help": "Without it, ids are made from positions."})
    keep_columns: list[str] = field(default_factory=list, metadata={"help": "Columns passed through to the dataset."})
    columns: list[str] = field(
        default_factory=list, metadata={"help": "Names of the columns of CSV or TSV files without a header line."}
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder that image paths are relative to."})
    max_text_length: int = field(default=4096, metadata={"help": "Characters, at most a million; the rest is cut."})
    rows_per_shard: int = field(default=10_000, metadata={"help": "Most rows of a shard; a tar is one shard."})
    hub_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    hub_split: str = field(default="train", metadata={"help": "Split of a dataset on the Hub."})
    hub_revision: str | None = field(default=None, metadata={"help": "Revision of a dataset on the Hub."})
    limit: int | None = field(default=None, metadata={"help": "Build from so many first rows, to try settings."})
    streaming: bool = field(default=False, metadata={"help": "Read a dataset on the Hub without downloading it."})


@dataclass
class LinkArguments:
    """From alt-text to candidates; the text phase."""

    knowledge_base: str = field(
        metadata={"help": "Folder of `build_knowledge_base`, its id on the Hub, or a JSONL file."}
    )
    language: str = field(default="en", metadata={"help": "Language of function words."})
    spacy_model: str | None = field(default=None, metadata={"help": "spaCy pipeline with `ner`; none: aliases alone."})
    typos: bool = field(default=False, metadata={"help": "Match names with a letter wrong in texts without a match."})
    boilerplate: list[str] = field(
        default_factory=list, metadata={"help": "Words never linked, besides those for pictures (`photo`, `icon`)."}
    )
    not_boilerplate: list[str] = field(
        default_factory=list, metadata={"help": "Words that name something however many of these texts have them."}
    )
    num_statistics_texts: int = field(default=200_000, metadata={"help": "Texts from which statistics are learned."})
    coherence: bool = field(default=True, metadata={"help": "Let the other entities of a text speak."})
    text_similarity: bool = field(default=True, metadata={"help": "Let the other words of a text speak."})
    min_probability: float = field(default=0.35, metadata={"help": "Least probability that a mention is no NIL."})
    disambiguation: Literal["text", "image", "both"] = field(
        default="text", metadata={"help": "Who chooses among the candidates of a mention."}
    )
    min_candidate_probability: float = field(
        default=0.02, metadata={"help": "Least probability of a candidate that the image may still choose."}
    )


@dataclass
class FilterArguments:
    """From candidates to entities that the image shows; the image phase, and what follows from its similarities."""

    EXCLUSIVE: ClassVar = (("min_similarity", "keep_fraction"),)

    filter_model: str = field(metadata={"help": "CLIP, SigLIP, MOFI or any dual encoder, by name or path."})
    entity_template: str = field(
        default="{name}, {description}", metadata={"help": "Text of an entity; without description the name alone."}
    )
    batch_size: int = field(default=256, metadata={"help": "Images the model takes at once."})
    image_size: int = field(default=320, metadata={"help": "Shorter side of published images, at most, in pixels."})
    min_similarity: float | None = field(default=None, metadata={"help": "Threshold as a cosine ..."})
    keep_fraction: float | None = field(default=None, metadata={"help": "... or as the fraction of pairs to keep."})
    min_similarity_by_type: dict | str | None = field(
        default=None, metadata={"help": 'Other thresholds for types of entities, as JSON: {"Q5": 0.3} ...'}
    )
    keep_fraction_by_type: dict | str | None = field(
        default=None, metadata={"help": "... or the fractions to keep of the pairs of such entities, as JSON."}
    )

    def __post_init__(self) -> None:
        for name in ("min_similarity_by_type", "keep_fraction_by_type"):
            value = getattr(self, name)
            try:
                numbers = {kind: float(number) for kind, number in json_mapping(name, value).items()}
            except (TypeError, ValueError):
                raise ValueError(f'{name} must be JSON such as {{"Q5": 0.3}}, got {value!r}') from None
            setattr(self, name, numbers or None)


@dataclass
class LabelArguments:
    """From entities to labels and splits."""

    min_images_per_entity: int = field(default=5, metadata={"help": "Entities with fewer images are dropped."})
    max_images_per_entity: int | None = field(default=None, metadata={"help": "Entities with more keep this many."})
    validation_fraction: float = field(default=0.0, metadata={"help": "Of the rows; rare entities stay in train."})
    rows_per_file: int = field(default=20_000, metadata={"help": "Rows of a published Parquet file, at most."})
    seed: int = field(default=0, metadata={"help": "Of the cap and the split."})


@dataclass
class RunArguments:
    """Where the output goes and who computes it; no byte of the dataset depends on these."""

    output_dir: str = field(metadata={"help": "Folder of the dataset."})
    engine: Literal["local", "ray"] = field(default="local", metadata={"help": "This machine, or a Ray cluster."})
    num_processes: int = field(default=1, metadata={"help": "Worker processes of the local engine."})
    num_threads: int = field(default=1, metadata={"help": "Threads of a worker's PyTorch."})
    decode_threads: int | None = field(
        default=None,
        metadata={"help": "Threads that decode images ahead of the model; by default the cores per GPU, or none."},
    )
    decode_memory: float = field(
        default=2.0,
        metadata={"help": "GiB that the images being decoded may take in a process; a larger one is alone."},
    )
    num_shards: int = field(default=1, metadata={"help": "Tasks of a job array that build this dataset together."})
    shard_index: int | None = field(default=None, metadata={"help": "Which of `num_shards` this one is."})
    wait_seconds: float = field(default=0.0, metadata={"help": "How long to wait for the other tasks of the array."})
    restart_from: Stage | None = field(default=None, metadata={"help": "Redo from this stage on."})
    max_unreadable: float = field(
        default=0.9, metadata={"help": "Share of rows that cannot be read, or images, beyond which the build stops."}
    )
    gold_column: str | None = field(default=None, metadata={"help": "True entity of the image, for the report only."})
    gold_text_column: str | None = field(default=None, metadata={"help": "What the text names, for the report only."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Dataset on the Hub to publish to."})
    private: bool = field(default=True, metadata={"help": "Whether that dataset is private."})


@dataclass(frozen=True)
class BuildArguments:
    """All settings of a build."""

    source: SourceArguments
    link: LinkArguments
    filter: FilterArguments
    label: LabelArguments
    run: RunArguments

    def check(self) -> None:
        """Refuses settings that cannot be meant.

        Raises:
            ValueError: With the setting, what came and what was expected.
        """
        for part in vars(self).values():
            check_choices(part)
        if taken := sorted(set(self.source.keep_columns) & set(OWN_COLUMNS)):
            raise ValueError(
                f"keep_columns names {', '.join(taken)}, which the build makes itself; rename the column in the source"
            )
        if (self.filter.min_similarity is None) == (self.filter.keep_fraction is None):
            raise ValueError("exactly one of min_similarity and keep_fraction must be set")
        if self.filter.min_similarity is not None and not -1 <= self.filter.min_similarity <= 1:
            raise ValueError(f"min_similarity is a cosine in [-1, 1], got {self.filter.min_similarity}")
        if self.filter.keep_fraction is not None and not 0 < self.filter.keep_fraction <= 1:
            raise ValueError(f"keep_fraction is in (0, 1], got {self.filter.keep_fraction}")
        if not 0 <= self.label.validation_fraction < 1:
            raise ValueError(f"validation_fraction is in [0, 1), got {self.label.validation_fraction}")
        cap = self.label.max_images_per_entity
        if cap is not None and cap < self.label.min_images_per_entity:
            raise ValueError(
                f"max_images_per_entity {cap} is below min_images_per_entity {self.label.min_images_per_entity}"
            )
        if not 0 <= self.run.max_unreadable <= 1:
            raise ValueError(f"max_unreadable is a share in [0, 1], got {self.run.max_unreadable}")
        if self.run.decode_memory <= 0:
            raise ValueError(f"decode_memory is a number of GiB above 0, got {self.run.decode_memory}")
        if self.run.shard_index is not None and not 0 <= self.run.shard_index < self.run.num_shards:
            raise ValueError(f"shard_index is in [0, num_shards), got {self.run.shard_index} of {self.run.num_shards}")
        if self.run.shard_index is not None and self.run.restart_from is not None:
            raise ValueError("restart_from deletes the work of all tasks: give it once, without shard_index")
        for part, name in POSITIVE:
            value = getattr(getattr(self, part), name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        thresholds, fractions = self.filter.min_similarity_by_type or {}, self.filter.keep_fraction_by_type or {}
        if both := sorted(thresholds.keys() & fractions.keys()):
            raise ValueError(f"min_similarity_by_type and keep_fraction_by_type both name {', '.join(both)}")
        if wrong := {kind: value for kind, value in fractions.items() if not 0 < value <= 1}:
            raise ValueError(f"keep_fraction_by_type holds fractions in (0, 1], got {wrong}")

    def link_settings(self) -> dict[str, object]:
        """Everything the output of the text phase depends on, files aside."""
        source = asdict(self.source)
        link = asdict(self.link)
        for name in ("pairs", "limit", "image_column", "image_root"):  # The plan says what of `pairs` is read.
            source.pop(name)
        link.pop("knowledge_base")
        # `image` and `both` need the same candidates; they differ in the choice alone.
        link["keeps_candidates"] = link.pop("disambiguation") != "text"
        if not link["keeps_candidates"]:
            link.pop("min_candidate_probability")
        return source | link

    def score_settings(self) -> dict[str, object]:
        """What else the output of the image phase depends on."""
        names = ("entity_template", "batch_size", "image_size")
        settings = {name: getattr(self.filter, name) for name in names}
        return settings | {"image_column": self.source.image_column, "image_root": self.source.image_root}

    def label_settings(self) -> dict[str, object]:
        """What else the dataset depends on."""
        names = ("min_similarity", "keep_fraction", "min_similarity_by_type", "keep_fraction_by_type")
        settings = {name: getattr(self.filter, name) for name in names}
        return settings | asdict(self.label) | {"disambiguation": self.link.disambiguation}
