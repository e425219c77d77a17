"""Retrieval sets that list what is relevant to each query: three configurations of one dataset on the Hub.

The layout is that of MTEB's image retrieval sets: `query` (or `queries`) and `corpus` with `id` and `image`, and
`qrels` (or `default`) with `query-id`, `corpus-id` and `score`, which is above 0 for what is relevant.
"""

from dataclasses import dataclass, field

import datasets

from evaluation.labeled_images import LabeledImages, open_images


PARTS = {"query": ("query", "queries"), "corpus": ("corpus",), "lists": ("qrels", "default")}
ID_COLUMNS = ("id", "_id")
LIST_COLUMNS = ("query-id", "corpus-id", "score")


@dataclass
class Lists:
    """What a query's list says, by query id.

    Attributes:
        relevant: Ids of the corpus images to find.
        judged: Ids of all corpus images that the list names.
    """

    relevant: dict[str, set[str]] = field(default_factory=dict)
    judged: dict[str, set[str]] = field(default_factory=dict)


def open_listed_images(
    data: str, part: str, *, revision: str | None = None, split: str | None = None, limit: int | None = None
) -> LabeledImages:
    """Opens the queries or the corpus, with the ids that the lists use.

    Raises:
        ValueError: If the dataset lacks a part or its ids.
    """
    config = find_part(data, part, revision)
    return open_images(f"{data}:{config}", split=split, revision=revision, limit=limit, id_column=ID_COLUMNS)


def read_lists(data: str, *, revision: str | None = None, split: str | None = None) -> Lists:
    """Reads what is relevant to each query."""
    loaded = datasets.load_dataset(data, find_part(data, "lists", revision), revision=revision)
    if split not in loaded and len(loaded) > 1:
        raise ValueError(f"The lists of {data} have the splits {', '.join(loaded)}; choose one with --split.")
    rows = loaded[split if split in loaded else next(iter(loaded))]
    if missing := set(LIST_COLUMNS) - set(rows.column_names):
        raise ValueError(f"The lists of {data} lack {', '.join(sorted(missing))}; they have {rows.column_names}.")
    lists = Lists()
    for query_id, corpus_id, score in zip(*(rows[name] for name in LIST_COLUMNS), strict=True):
        lists.judged.setdefault(str(query_id), set()).add(str(corpus_id))
        if score > 0:
            lists.relevant.setdefault(str(query_id), set()).add(str(corpus_id))
    return lists


def find_part(data: str, part: str, revision: str | None) -> str:
    """Name of the configuration that holds a part."""
    try:
        found = datasets.get_dataset_config_names(data, revision=revision)
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(f"{data} is neither here nor reachable as a dataset on the Hub: {error}") from error
    name = next((name for name in PARTS[part] if name in found), None)
    if name is None:
        raise ValueError(f"{data} has no configuration {' or '.join(PARTS[part])}, only {', '.join(found)}.")
    return name
