"""Work on items, each of which leaves one file and a manifest: what every stage of a build is made of.

A file has a fixed name, is written under another one and renamed when whole; its manifest is written last. Done means
a manifest with the right settings beside a file of the right size, whoever wrote it: a crash costs the items at work,
and running again writes the same bytes.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_scripts.engine.files import hash_file
from modeling_mofi.whole_files import try_read_json, write_json, write_whole


class Item(Protocol):
    """Anything with a name, which is that of its file without the ending."""

    @property
    def name(self) -> str: ...


Group = tuple[Any, ...]  # Items that are done together.
Manifest = dict[str, Any]
WriteFile = Callable[[Path], Manifest]  # Writes the file of an item to a path; returns what its manifest shall say.
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """One kind of work, for any number of items.

    Attributes:
        name: For progress and messages.
        folder: Gets the files.
        config_hash: Of everything that the files depend on.
        work: Gives what writes the file of each item of a group, in their order.
        suffix: Of the files.
        manifests: Folder of the manifests; by default that of the files.
        versions: Of the libraries that the files depend on.
        stages: Names of the stages whose rows the manifests count, in their order.
        reading: The one of them whose dropped rows could not be read.
        max_unreadable: Share of such rows beyond which the job ends with an error.
        uses_gpu: Whether a worker should have a GPU to itself, where there are some.
        is_short: Whether tasks of an array that do not wait for one another leave it to the first of them.
    """

    name: str
    folder: Path
    config_hash: str
    work: Callable[[Group], Generator[WriteFile, None, None]]
    suffix: str = ".parquet"
    manifests: Path | None = None
    versions: dict[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    reading: str | None = None
    max_unreadable: float = 1.0
    uses_gpu: bool = False
    is_short: bool = False

    def path(self, item: Item) -> Path:
        """File of an item."""
        return self.folder / f"{item.name}{self.suffix}"

    def manifest_path(self, item: Item) -> Path:
        """Manifest of an item."""
        return (self.manifests or self.folder) / f"{item.name}.json"

    def manifest(self, item: Item) -> Manifest | None:
        """The manifest of an item that is done; None if it is not."""
        manifest, path = try_read_json(self.manifest_path(item)), self.path(item)
        if manifest is None or manifest.get("config_hash") != self.config_hash or not path.is_file():
            return None
        return manifest if path.stat().st_size == manifest["bytes"] else None

    def is_done(self, group: Group) -> bool:
        """Whether every item of a group is done."""
        return all(self.manifest(item) is not None for item in group)


# Jobs with their groups, one after the other: a generator of steps goes on when all groups of the last one are done,
# whoever did them, and returns what came of it.
Steps = Generator[tuple[Job, Sequence[Group]], None, Result]


@dataclass(frozen=True)
class Part:
    """An item of a job that is not about shards: a block of something, or the only file there is."""

    name: str
    index: int = 0


def single(items: Iterable[Item]) -> list[Group]:
    """Every item as a group of its own."""
    return [(item,) for item in items]


def one_by_one(write: Callable[[Any, Path], Manifest | None], group: Group) -> Generator[WriteFile, None, None]:
    """The work of a job whose items have nothing to do with one another.

    Args:
        write: Writes the file of an item to a path.
    """
    for item in group:
        yield partial(write, item)


def run_group(job: Job, group: Group) -> list[Manifest]:
    """Does a group of items and commits each; returns the manifests."""
    manifests = []
    with closing(job.work(group)) as files:
        for item, write in zip(group, files, strict=True):
            path = job.path(item)
            job.manifest_path(item).unlink(missing_ok=True)
            with write_whole(path) as temporary:
                facts = write(temporary)
            manifest = {
                "job": job.name,
                "item": item.name,
                "config_hash": job.config_hash,
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": hash_file(path),
                "versions": job.versions,
            }
            manifests.append(manifest | (facts or {}))
            write_json(job.manifest_path(item), manifests[-1])
    return manifests
