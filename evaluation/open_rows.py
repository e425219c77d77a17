"""Opens the rows of a dataset: local files, a folder, or an id on the Hub."""

import csv
import glob
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq


HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Tables of texts keep labels as they stand: "01" is not "1", and "NA" may be a country.
TEXT_TABLE = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
TEXT_TABLES = {".csv": {}, ".tsv": {"sep": "\t", "quoting": csv.QUOTE_NONE}}
SUFFIXES = (".parquet", ".jsonl", *TEXT_TABLES)
IMAGE_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def open_rows(data: str, split: str | None, *, revision: str | None = None) -> datasets.Dataset:
    """Opens one split of a file, pattern, folder or Hub id.

    Raises:
        FileNotFoundError: If there is no such file, folder or dataset.
        ValueError: If it does not open, or the split is missing (the message lists those that exist).
    """
    if Path(data).is_dir():
        loaded = open_folder(Path(data))
    elif files := find_files(data):
        loaded = load_files(files, data)
    else:
        loaded = open_hub_rows(data, revision)
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split is None and len(loaded) > 1:
        raise ValueError(f"{data} has the splits {', '.join(loaded)}; choose one with --split.")
    if split is not None and split not in loaded:
        raise ValueError(f"{data} has no split {split!r}, only {', '.join(loaded)}.")
    return loaded[split or next(iter(loaded))]


def find_files(data: str) -> list[Path]:
    """The file of that name, whatever brackets it has, else those that a pattern matches."""
    return [Path(data)] if Path(data).is_file() else sorted(map(Path, glob.glob(data)))


def load_files(files: Sequence[Path], data: str) -> datasets.Dataset:
    """Loads files of one kind, one after the other."""
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) != 1 or not kinds <= set(SUFFIXES):
        found = ", ".join(sorted(kinds)) or "empty"
        raise ValueError(f"{data} is {found}; give {', '.join(SUFFIXES)} files, a folder, or a dataset id.")
    kind = kinds.pop()
    if kind in TEXT_TABLES:
        tables = [pandas.read_csv(file, **TEXT_TABLE, **TEXT_TABLES[kind]) for file in files]
        return datasets.Dataset.from_pandas(pandas.concat(tables), preserve_index=False)
    if kind == ".parquet":
        check_parquet(files)
    # `datasets` takes a name for a pattern, in which brackets mean something else.
    names = [glob.escape(str(file)) for file in files]
    try:
        return datasets.load_dataset({".jsonl": "json"}.get(kind, "parquet"), data_files=names, split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{data} does not open: {reason}") from error


def check_parquet(files: Sequence[Path]) -> None:
    """Refuses files that are broken or hold no rows, by name; a loader over many files would not say which."""
    for file in files:
        try:
            num_rows = pq.read_metadata(file).num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a whole Parquet file; write it again. ({error})") from error
        if not num_rows and len(files) == 1:
            raise ValueError(f"{file} has no rows to evaluate.")


def open_folder(folder: Path) -> datasets.Dataset | datasets.DatasetDict:
    """Opens a folder of images, of tables, or one written by `save_to_disk`."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if images and any(path.name in METADATA for path in files):
        return datasets.load_dataset("imagefolder", data_files=[f"{glob.escape(str(folder))}/**"])
    if images:
        return open_image_folder(folder, images)
    if glob.has_magic(str(folder)):
        return load_files([path for path in files if path.suffix.lower() in SUFFIXES], str(folder))
    return datasets.load_dataset(str(folder))


def open_image_folder(folder: Path, images: Sequence[Path]) -> datasets.DatasetDict:
    """Images with the name of their subfolder as `label`, where each lies in one.

    `datasets` takes the words train, test and val anywhere in a file's name for splits, and leaves out the images of
    the other ones. Here they are splits only where every folder at the top has such a name.
    """
    tops = {path.relative_to(folder).parts[0] for path in images}
    has_splits = all(top in SPLITS and (folder / top).is_dir() for top in tops)
    by_split: dict[str, list[Path]] = {}
    for path in images:
        name = SPLITS[path.relative_to(folder).parts[0]] if has_splits else "train"
        by_split.setdefault(name, []).append(path)
    depth = 2 if has_splits else 1
    features = {"image": datasets.Image()}
    if all(len(path.relative_to(folder).parts) > depth for path in images):
        features["label"] = datasets.ClassLabel(names=sorted({path.parent.name for path in images}))
    return datasets.DatasetDict(
        {name: image_rows(paths, datasets.Features(features)) for name, paths in by_split.items()}
    )


def image_rows(paths: Sequence[Path], features: datasets.Features) -> datasets.Dataset:
    """One row per image file."""
    columns = {"image": [str(path) for path in paths]}
    if "label" in features:
        columns["label"] = [path.parent.name for path in paths]
    return datasets.Dataset.from_dict(columns, features=features)


def open_hub_rows(data: str, revision: str | None) -> datasets.DatasetDict:
    """Loads `name[:config]` from the Hub."""
    name, _, config_name = data.partition(":")
    if not HUB_ID.fullmatch(name) or Path(name).suffix in {*SUFFIXES, ".json", ".tar", ".zip"}:
        raise FileNotFoundError(f"{data} does not exist. Give a Parquet file, a folder of images, or a dataset id.")
    try:
        return datasets.load_dataset(name, config_name or None, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{data} is neither here nor reachable as a dataset on the Hub: {error}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{data} does not open: {reason} (One of several configurations: {name}:config.)") from error
