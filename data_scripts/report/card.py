"""Writes the dataset card: what the Hub reads, counts by stage, licenses, and how to build the same again."""

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import datasets
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from data_scripts.engine.row_counts import Totals
from data_scripts.images.filter_entities import SimilarityHistogram, Thresholds
from data_scripts.labels.label_shards import LabelSummary
from data_scripts.labels.write_dataset import SPLITS, published_rows, with_features
from data_scripts.phases import Build, library_versions
from data_scripts.schema import published_schema
from modeling_mofi.hub.public_text import public_setting
from modeling_mofi.hub.templates import fill_card
from modeling_mofi.whole_files import write_text


TEMPLATE = Path(__file__).with_name("dataset_card.md.jinja")
LICENSE_COLUMNS = ("license", "licence")
CHOICES = {
    "text": "the text chose",
    "image": "the image chose, by its similarity to each",
    "both": "the text and the image chose together",
}


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Attributes:
        totals: Rows in, out and dropped by stage, notes, and examples of what could not be read.
        histogram: Similarities of the chosen entities before the threshold.
    """

    build: Build
    summary: LabelSummary
    totals: Totals
    thresholds: Thresholds
    histogram: SimilarityHistogram

    @property
    def is_public(self) -> bool:
        """Whether others will read card and report; local paths, which help only here, are left out then."""
        return self.build.args.run.push_to_hub is not None


def write_card(result: BuildResult) -> None:
    """Writes `README.md`."""
    build, rows = result.build, result.summary.rows
    column = next((name for name in LICENSE_COLUMNS if name in build.keep_columns), None)
    card = fill_card(
        TEMPLATE,
        DatasetCard,
        metadata(result),
        is_public=result.is_public,
        num_images=sum(rows.values()),
        num_entities=result.summary.entities.num_rows,
        location=build.args.run.push_to_hub or build.output_dir.name,
        splits={split: count for split, count in rows.items() if count},
        stages=result.totals.stages,
        choice=CHOICES[build.args.link.disambiguation],
        threshold=result.thresholds.default,
        entity_template=build.args.filter.entity_template,
        filter_model=build.args.filter.filter_model,
        license_column=column,
        licenses=count_licenses(build, column) if column else [],
        build_id=build.build_id,
        recipe=recipe_text(result),
        versions=", ".join(f"{name} {number}" for name, number in library_versions().items()),
    )
    write_text(build.output_dir / "README.md", card)


def metadata(result: BuildResult) -> DatasetCardData:
    """What the Hub reads: files per split, features, sizes."""
    build, rows = result.build, result.summary.rows
    schema = with_features(published_schema(build.keep_columns), build_id=build.build_id)
    splits = [split for split in SPLITS if rows[split]]
    paths = {split: build.output_dir.glob(f"data/{split}-*.parquet") for split in splits}
    sizes = {split: sum(path.stat().st_size for path in paths[split]) for split in splits}
    info = datasets.DatasetInfo(
        features=datasets.Features.from_arrow_schema(schema),
        splits=datasets.SplitDict({split: datasets.SplitInfo(split, sizes[split], rows[split]) for split in splits}),
        download_size=sum(sizes.values()),
        dataset_size=sum(sizes.values()),
    )
    data = DatasetCardData(
        pretty_name="I2E",
        task_categories=["image-classification", "image-feature-extraction"],
        tags=["mofi", "entities", "wikidata"],
        language=[build.args.link.language],
        size_categories=[size_category(sum(rows.values()))],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data


def size_category(num_rows: int) -> str:
    """The Hub's word for a size, such as `10K<n<100K`."""
    limits = ["1", *(f"{number}{unit}" for unit in "KMB" for number in (1, 10, 100)), "1T"]
    place = max(len(str(num_rows)) - 3, 0)
    if place >= len(limits) - 1:
        return "n>1T"
    return f"{limits[place]}<n<{limits[place + 1]}" if place else "n<1K"


def count_licenses(build: Build, column: str) -> list[tuple[str, int]]:
    """The most frequent licenses of the rows."""
    rows = published_rows(build.output_dir / "data", columns=[column])
    return Counter(row[column] for row in rows).most_common(20)


def recipe_text(result: BuildResult) -> str:
    """The settings that differ from their defaults, as the recipe to build again."""
    args = result.build.args
    recipe = {
        field.name: value
        for part in (args.source, args.link, args.filter, args.label)
        for field in fields(part)
        if (value := getattr(part, field.name)) != field.default and value not in ([], None)
    }
    recipe = public_setting(recipe, with_paths=not result.is_public)
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
