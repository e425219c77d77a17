"""Writes the dataset card: what the Hub reads, counts by stage, licenses, and how to build the same again."""

from collections import Counter
from dataclasses import dataclass

import datasets
import yaml

from data_scripts.engine.row_counts import Totals
from data_scripts.images.filter_entities import SimilarityHistogram, Thresholds
from data_scripts.labels.label_shards import LabelSummary
from data_scripts.labels.write_dataset import SPLITS, published_rows, with_features
from data_scripts.phases import Build, library_versions
from data_scripts.schema import published_schema
from modeling_mofi.hub.public_text import plain_text, public_setting
from modeling_mofi.whole_files import write_text


CARD = """\
---
{front_matter}---

# {title}

Images with the entities they show, made from image and alt-text pairs without human labels, after the I2E dataset of
[MOFI](https://huggingface.co/papers/2306.07952): alt-texts are searched for names, names are linked to a knowledge
base, and an entity stays where a CLIP-like model finds that the image shows it.

```python
from datasets import load_dataset

data = load_dataset("{location}", split="train")
data[0]["entities"]  # [{{'entity_id': ..., 'name': ..., 'description': ..., 'similarity': ...}}]
```

`entity_labels` are the rows of `entities.parquet` (entity_label, entity_id, name, description, count).

## Counts

{counts}

| stage | rows in | rows out | dropped |
|---|---|---|---|
{stages}

Smallest similarity kept: {threshold:.4f} (cosine of image and `{template}` under `{model}`).

## Licences

The labels and this card come without restriction. Images and texts keep the licenses of their sources{licenses}
{attribution}

## How it was made

Build `{build_id}`. The same command on the same input gives the same bytes:

```
python -m data_scripts.build_i2e RECIPE.yaml --output_dir {location}
```

with this recipe:

```yaml
{recipe}```

Versions: {versions}.

## Limits

Entities are as good as the names in the alt-texts, the knowledge base and the filter model; `report.html` beside this
card shows what was kept and dropped, with images. Nobody has checked the labels by hand.
"""


LICENSE_COLUMNS = ("license", "licence")


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


def write_card(result: BuildResult) -> None:
    """Writes `README.md`."""
    build, summary = result.build, result.summary
    num_rows = sum(summary.rows.values())
    stages = "\n".join(
        f"| {name} | {counts['rows_in']:,} | {counts['rows_out']:,} | {dropped_text(counts['dropped'])} |"
        for name, counts in result.totals.stages.items()
    )
    licenses, column = count_licenses(build), license_column(build)
    card = CARD.format(
        front_matter=front_matter(result),
        title=f"I2E: {num_rows:,} images of {summary.entities.num_rows:,} entities",
        location=build.args.run.push_to_hub or build.output_dir.name,
        counts=", ".join(f"{split} {count:,} images" for split, count in summary.rows.items() if count),
        stages=stages,
        threshold=result.thresholds.default,
        template=build.args.filter.entity_template,
        model=public_setting(build.args.filter.filter_model),
        licenses=f", which stand in the column `{column}`:" if licenses else "; ask before you share the images.",
        attribution=licenses,
        build_id=build.build_id,
        recipe=recipe_text(build),
        versions=", ".join(f"{name} {number}" for name, number in library_versions().items()),
    )
    write_text(build.output_dir / "README.md", card)


def front_matter(result: BuildResult) -> str:
    """What the Hub reads: files per split, features, sizes."""
    build, summary = result.build, result.summary
    features = datasets.Features.from_arrow_schema(
        with_features(published_schema(build.keep_columns), build_id=build.build_id)
    )
    splits = [split for split in SPLITS if summary.rows[split]]
    paths = {split: sorted((build.output_dir / "data").glob(f"{split}-*.parquet")) for split in splits}
    sizes = {split: sum(path.stat().st_size for path in paths[split]) for split in splits}
    info = {
        "features": features._to_yaml_list(),
        "splits": [
            {"name": split, "num_bytes": sizes[split], "num_examples": summary.rows[split]} for split in splits
        ],
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
    }
    content = {
        "pretty_name": "I2E",
        "task_categories": ["image-classification", "image-feature-extraction"],
        "tags": ["mofi", "entities", "wikidata"],
        "language": [build.args.link.language],
        "size_categories": [size_category(sum(summary.rows.values()))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
        "dataset_info": info,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def size_category(num_rows: int) -> str:
    """The Hub's word for a size."""
    limits = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
    limits += ((1e8, "10M<n<100M"), (1e9, "100M<n<1B"))
    return next((name for limit, name in limits if num_rows < limit), "n>1B")


def dropped_text(dropped: dict[str, int]) -> str:
    """Reasons and counts in one cell."""
    return "; ".join(f"{reason} {count:,}" for reason, count in dropped.items())


def count_licenses(build: Build) -> str:
    """A list of the licenses of the rows, if the column is kept."""
    column = license_column(build)
    if column is None:
        return ""
    counts = Counter(row[column] for row in published_rows(build.output_dir / "data", columns=[column]))
    return "\n".join(f"- {plain_text(name)}: {count:,} images" for name, count in counts.most_common(20))


def license_column(build: Build) -> str | None:
    """The kept column that holds the licenses of the rows, in either spelling."""
    return next((name for name in LICENSE_COLUMNS if name in build.keep_columns), None)


def recipe_text(build: Build) -> str:
    """The settings that differ from their defaults, as the recipe to build again."""
    recipe = {}
    for part in (build.args.source, build.args.link, build.args.filter, build.args.label):
        default = type(part).__dataclass_fields__
        for name, value in vars(part).items():
            if value != default[name].default and value not in ([], None):
                # Folders of this machine build the same again here, and tell others nothing.
                recipe[name] = public_setting(value) if build.args.run.push_to_hub else value
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
