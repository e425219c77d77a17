"""Opens a built knowledge base: entity table, alias table, entity embeddings, all memory-mapped.

Opening reads no table into memory, and the pages are shared by every process of a machine.
"""

import gc
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_scripts.knowledge_base.alias_tries import open_aliases


FORMAT_VERSION = 10
MANIFEST = "manifest.json"
PROPER, COMMON, CASELESS = 1, 0, -1
# Bits of `candidate_forms`.
OWN_NAME, ONLY_CAPITALS = 1, 2
COLLECT_AFTER = 50_000


class KnowledgeBase:
    """A folder written by `build_knowledge_base`.

    Attributes:
        manifest: Version, source, hash and counts.
        aliases: Trie from alias key to alias index, or several of them that look like one.
        offsets: Candidates of alias i are `candidates[offsets[i]:offsets[i + 1]]`, most probable first; [aliases + 1].
        candidates: Entity rows, int32.
        priors: P(entity | alias), float32, one per candidate.
        candidate_forms: Bits `OWN_NAME` (the alias is the entity's name) and `ONLY_CAPITALS` (the entity has it in
            capitals alone, as `HEAD`), int8, one per candidate.
        is_proper: `PROPER`, `COMMON` or `CASELESS` for the spelling of each entity's name, int8, [entities].
        embeddings: Unit-length graph embeddings, float16, [entities, D].
        token_offsets: Description tokens of entity i are `tokens[token_offsets[i]:token_offsets[i + 1]]`.
        tokens: Hashed description tokens, int32, distinct and ascending per entity.
        description_norms: Length of the vector of each entity's weighted tokens, float32, [entities].
        inverse_frequency: Weight of each hashed token, float32, [2**20].
        popularity: Minus the log of the share of entities with more sitelinks, float32, [entities].
        has_image: Whether Wikidata has an image of the entity, bool, [entities].
        lower_odds: Log odds that the descriptions write a hashed word in lower case, float32, [2**20].
        link_offsets: Entities that entity i links to are `link_targets[link_offsets[i]:link_offsets[i + 1]]`.
        link_targets: Entity rows, int32.
        link_weights: Weight of a link to each entity, float32, [entities].
        link_norms: Length of the vector of each entity's weighted links and itself, float32, [entities].
        ids: Id of each entity in UTF-8, [entities].
        id_order: Entity rows in the order of their ids, int32, [entities].
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.aliases = open_aliases(self.folder, self.open_array("alias_shards"))
        self.offsets = self.open_array("candidate_offsets")
        self.candidates = self.open_array("candidate_entities")
        self.priors = self.open_array("candidate_priors")
        self.candidate_forms = self.open_array("candidate_forms")
        self.is_proper = self.open_array("is_proper")
        self.embeddings = self.open_array("embeddings")
        self.token_offsets = self.open_array("token_offsets")
        self.tokens = self.open_array("tokens")
        self.description_norms = self.open_array("description_norms")
        self.inverse_frequency = self.open_array("inverse_frequency")
        self.popularity = self.open_array("popularity")
        self.has_image = self.open_array("has_image")
        self.lower_odds = self.open_array("lower_odds")
        self.link_offsets = self.open_array("link_offsets")
        self.link_targets = self.open_array("link_targets")
        self.link_weights = self.open_array("link_weights")
        self.link_norms = self.open_array("link_norms")
        self.table = pa.ipc.open_file(pa.memory_map(str(self.folder / "entities.arrow"))).read_all()
        self.chunk_starts = np.cumsum([0, *(len(chunk) for chunk in self.table["entity_id"].chunks)])[:-1]
        self.ids = self.open_array("entity_ids")
        self.id_order = self.open_array("id_order")

    def __len__(self) -> int:
        return self.table.num_rows

    def open_array(self, name: str) -> np.ndarray:
        """Maps one array of the folder; an empty array cannot be mapped and is read."""
        path = self.folder / f"{name}.npy"
        array = np.load(path, mmap_mode="r")
        # A plain view: indexing a `np.memmap` goes through Python.
        return array.view(np.ndarray) if array.size else np.load(path)

    def entity_ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The ids of entity rows."""
        return list(map(bytes.decode, self.ids[rows].tolist()))

    def column(self, name: str, rows: Sequence[int] | np.ndarray) -> list:
        """Values of one column of the entity table at some rows.

        Chunk by chunk: `take` on a column of many chunks first copies the column.
        """
        rows = np.asarray(rows, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        edges = np.searchsorted(rows[order], [*self.chunk_starts, len(self)]).tolist()
        values = np.empty(len(rows), dtype=object)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            if first < last:
                inside = rows[order[first:last]] - self.chunk_starts[number]
                values[order[first:last]] = self.table[name].chunk(number).take(pa.array(inside)).to_pylist()
        return values.tolist()

    def rows_of(self, entity_ids: Sequence[str]) -> np.ndarray:
        """Rows of entity ids; -1 for an id that is not in the table. Binary search over the mapped ids."""
        return find_sorted(self.ids, map(str.encode, entity_ids), order=self.id_order)


def find_sorted(ids: np.ndarray, wanted: Iterable[bytes], *, order: np.ndarray | None = None) -> np.ndarray:
    """Places of some ids in an array of them, -1 for those it does not have.

    Args:
        ids: Bytes, ascending, or in any order with `order`, [M].
        order: Places in ascending order of the ids, [M].
    """
    wanted = np.array(list(wanted), dtype=np.bytes_)
    if len(ids) == 0 or len(wanted) == 0:
        return np.full(len(wanted), -1)
    # Of one type, or NumPy would convert all the ids; a wanted one that is cut so is equal to none below.
    places = np.minimum(np.searchsorted(ids, wanted.astype(ids.dtype), sorter=order), len(ids) - 1)
    places = places if order is None else order[places].astype(np.int64)
    return np.where(ids[places] == wanted, places, -1)


def read_manifest(folder: Path) -> dict:
    """The manifest of a built knowledge base.

    Raises:
        FileNotFoundError: If there is none: the folder is no knowledge base, or its build did not finish.
        ValueError: If another version of this program wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished knowledge base ({MANIFEST} is missing). Build it with "
            f"`python -m data_scripts.build_knowledge_base --source FILE --output_dir {folder}`."
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{folder} has knowledge base format {manifest['format_version']}, this program reads {FORMAT_VERSION}. "
            f"Rebuild it from {manifest['source']} with `python -m data_scripts.build_knowledge_base`."
        )
    return manifest


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there with all its bytes."""
    return path.is_file() and path.stat().st_size == size


def calm_collector() -> None:
    """Lets Python's cycle collector leave alone what the libraries have made, and come less often.

    The text phase makes thousands of small dictionaries a batch and no cycle; collecting took a third of its time.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


@lru_cache(maxsize=2)
def open_knowledge_base(folder: str) -> KnowledgeBase:
    """Opens a knowledge base once per process."""
    kb = KnowledgeBase(folder)
    calm_collector()
    return kb
