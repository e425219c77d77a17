"""Finds Wikidata's tables, in a folder or on the Hub, and fetches what is asked for of the latter.

The layout is that of `permutans/wikidata-labels` and its siblings: per table a folder for each language (labels,
descriptions, aliases), site (links) or for everything (claims), with Parquet files in it.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from tqdm import tqdm

from modeling_mofi.whole_files import read_json, try_read_json, write_json, write_whole


try:
    import httpx2 as httpx  # What huggingface_hub 2 talks with.
except ImportError:
    import httpx

logger = logging.getLogger(__name__)

# What is read of each table; of a claim's value, the item that it names.
COLUMNS = {
    "labels": ("id", "value"),
    "descriptions": ("id", "value"),
    "aliases": ("id", "value"),
    "links": ("id",),
    "claims": ("id", "property", "datavalue.id", "rank"),
}
IN_LANGUAGES = ("labels", "descriptions", "aliases")
FETCHED = "files.json"
# `{table}` is one of the above.
DEFAULT_TABLES = "permutans/wikidata-{table}"
NUM_DOWNLOADS = 4
ATTEMPTS = 5
WAIT_SECONDS = 1.0
SILENT_SECONDS = 5.0

Files = dict[str, dict[str, list[Path]]]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a table on the Hub, and where what is read of it comes to lie."""

    path: str
    size: int
    columns: tuple[str, ...]
    local: Path


def find_tables(folder: Path, languages: Sequence[str]) -> Files:
    """Finds the files of a local copy, by table and folder in it.

    Args:
        folder: With a folder of each table, called `labels` or `wikidata-labels`.

    Raises:
        ValueError: If a table is missing, or lacks a column.
    """
    files: Files = {}
    for table, columns in COLUMNS.items():
        named = (folder / table, folder / f"wikidata-{table}")
        place = next((path for path in named if path.is_dir()), None)
        if place is None:
            raise ValueError(f"{folder} has no folder `{table}`; expected the tables {', '.join(COLUMNS)}")
        names = languages if table in IN_LANGUAGES else [path.name for path in sorted(place.iterdir())]
        found = {name: sorted((place / name).glob("*.parquet")) for name in names}
        files[table] = {name: paths for name, paths in found.items() if paths}
        check_columns(place, files[table], columns)
    return files


def check_columns(place: Path, folders: dict[str, list[Path]], columns: Sequence[str]) -> None:
    """Refuses a table without files, or whose first one lacks a column."""
    first = next((path for paths in folders.values() for path in paths), None)
    if first is None:
        raise ValueError(
            f"{place} has no Parquet file in a folder that is read; expected {place}/FOLDER/part-*.parquet"
        )
    missing = {column.partition(".")[0] for column in columns} - set(pq.read_schema(first).names)
    if missing:
        raise ValueError(f"{first} has no column {', '.join(sorted(missing))}")


def pin_revisions(tables: str, revisions: Sequence[str], folder: Path) -> dict[str, str]:
    """The commit of each table: of the revision asked for, else that with which this folder began, else the latest.

    Args:
        tables: Id of the datasets with `{table}` in it.
        revisions: `table=revision`.

    Raises:
        ValueError: If a revision is of no table.
    """
    asked = dict(revision.partition("=")[::2] for revision in revisions)
    if not asked.keys() <= COLUMNS.keys() or "{table}" not in tables:
        raise ValueError(
            f"--hub_tables {tables} --hub_revisions {' '.join(revisions)}: expected an id with {{table}} in it, and "
            f"`table=revision` of {', '.join(COLUMNS)}"
        )
    path = folder / "revisions.json"
    pinned = try_read_json(path) or {}
    pinned = pinned["commits"] if pinned.get("tables") == tables else {}
    api = HfApi()
    for table in COLUMNS:
        revision = asked.get(table)
        if revision and revision != pinned.get(table) or table not in pinned:
            pinned[table] = api.dataset_info(tables.format(table=table), revision=revision).sha
    write_json(path, {"tables": tables, "commits": pinned})
    return pinned


def fetch_tables(tables: str, commits: dict[str, str], folder: Path, languages: Sequence[str]) -> None:
    """Fetches the columns, languages and sites that are read; files that are there are not fetched again.

    Raises:
        ConnectionError: If a file could not be read in several attempts.
    """
    plan = {"commits": commits, "languages": list(languages)}
    fetched = try_read_json(folder / FETCHED) or {}
    if fetched.get("plan") == plan and all((folder / name).is_file() for name in fetched["files"]):
        return
    remote = [
        file
        for table, commit in commits.items()
        for file in list_remote(tables.format(table=table), commit, place_of(folder, table, commit), table, languages)
    ]
    missing = [file for file in remote if not file.local.is_file()]
    size = sum(file.size for file in missing)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    logger.info(
        f"{tables}: {len(missing)} of {len(remote)} files to fetch; at most {size / 1e9:.1f} GB go into {folder}, and "
        f"as much again is needed while tables are joined ({free / 1e9:.1f} GB are free)"
    )
    bar = tqdm(total=size, desc="fetch", unit="B", unit_scale=True, delay=SILENT_SECONDS)
    with ThreadPoolExecutor(NUM_DOWNLOADS) as pool, bar:
        for done in pool.map(partial(fetch_file, HfFileSystem()), missing):
            bar.update(done)
    write_json(folder / FETCHED, {"plan": plan, "files": [str(file.local.relative_to(folder)) for file in remote]})


def list_fetched(folder: Path, commits: dict[str, str]) -> Files:
    """The files that `fetch_tables` fetched, by table and folder in it."""
    paths = [folder / name for name in read_json(folder / FETCHED)["files"]]
    return {
        table: group_files([path for path in paths if place_of(folder, table, commit) in path.parents])
        for table, commit in commits.items()
    }


def place_of(folder: Path, table: str, commit: str) -> Path:
    """Where what is fetched of a table lies."""
    return folder / f"{table}-{commit[:12]}"


def list_remote(repo_id: str, commit: str, folder: Path, table: str, languages: Sequence[str]) -> list[RemoteFile]:
    """The files that are read of a table, in their order.

    Raises:
        ValueError: If there is none.
    """
    entries = [
        entry
        for name in (languages if table in IN_LANGUAGES else (None,))
        for entry in list_folder(repo_id, commit, name)
        if isinstance(entry, RepoFile) and entry.path.endswith(".parquet") and "/" in entry.path
    ]
    if not entries:
        raise ValueError(
            f"{repo_id} has no Parquet file in {', '.join(languages)}; is it a table of Wikidata's {table}?"
        )
    start = f"datasets/{repo_id}@{commit}/"
    return [RemoteFile(start + entry.path, entry.size, COLUMNS[table], folder / entry.path) for entry in entries]


def list_folder(repo_id: str, commit: str, name: str | None) -> list:
    """Files of a folder of a dataset; empty if there is no such folder."""
    try:
        found = HfApi().list_repo_tree(repo_id, name, recursive=True, revision=commit, repo_type="dataset")
        return sorted(found, key=lambda entry: entry.path)
    except EntryNotFoundError:
        return []


def fetch_file(system: HfFileSystem, file: RemoteFile) -> int:
    """Fetches the columns of a file that are read; returns the file's size.

    Raises:
        ConnectionError: If that failed several times.
    """
    for attempt in range(ATTEMPTS):
        try:
            copy_columns(system, file)
            return file.size
        except (OSError, httpx.HTTPError, pa.ArrowInvalid) as error:
            failure = error
            if isinstance(error, OSError) and error.errno is not None and "cannot write" in str(error):
                raise
            time.sleep(WAIT_SECONDS * 2**attempt)
    raise ConnectionError(
        f"{file.path} cannot be read ({failure}); run the command again: what has arrived is not fetched again"
    ) from failure


def copy_columns(system: HfFileSystem, file: RemoteFile) -> None:
    """Writes some columns of a file on the Hub, a row group in memory at a time."""
    with system.open(file.path, "rb") as remote:
        source = pq.ParquetFile(remote, pre_buffer=True)
        groups = (source.read_row_group(i, columns=list(file.columns)) for i in range(source.num_row_groups))
        first = next(groups, None)
        if first is None:
            first = source.schema_arrow.empty_table()
        with (
            write_whole(file.local) as temporary,
            pq.ParquetWriter(temporary, first.schema, compression="zstd") as out,
        ):
            out.write_table(first)
            for table in groups:
                out.write_table(table)


def group_files(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the folder that they lie in."""
    folders: dict[str, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent.name, []).append(path)
    return folders


def all_paths(files: Files) -> Iterator[Path]:
    """All files of all tables."""
    return (path for folders in files.values() for paths in folders.values() for path in paths)
