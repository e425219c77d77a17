"""Builds the knowledge base: entity table, alias table with priors, entity embeddings.

    python -m data_scripts.build_knowledge_base --source sample_data/entities.jsonl.gz --output_dir runs/sample/kb
    python -m data_scripts.build_knowledge_base --source latest-all.json.gz --output_dir runs/wikidata

Made once and opened by every build. A Wikidata dump is read in parts of entities; parts that are finished are not read
again after an interruption.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_scripts.engine.files import fingerprint_file, hash_file, hash_settings, write_array
from data_scripts.knowledge_base.graph_embeddings import embed_from_graph, read_biggraph_embeddings
from data_scripts.knowledge_base.links import iterate_values, link_arrays, link_table
from data_scripts.knowledge_base.read_wikidata import read_anchor_counts, read_entities, read_exclusions
from data_scripts.knowledge_base.store import (
    CASELESS,
    COMMON,
    FORMAT_VERSION,
    MANIFEST,
    ONLY_CAPITALS,
    OWN_NAME,
    PROPER,
)
from data_scripts.text.description_tokens import token_norms, token_table
from data_scripts.text.tokens import HASH_BITS, MAX_KEY_LENGTH, alias_key
from data_scripts.text.word_case import lower_odds_table
from modeling_mofi.bundled import find_config
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.user_errors import run_command
from modeling_mofi.whole_files import try_read_json, write_json, write_whole


logger = logging.getLogger(__name__)

MAX_CANDIDATES = 64
# Sitelinks that stand for a quarter of an anchor, where anchors are counted and an entity has none.
ANCHOR_SITELINKS = 20

FILE_SETTINGS = ("source", "exclusions", "anchor_counts", "embeddings")
NOT_CONTENT = ("output_dir", "num_processes")

ENTITY_TABLE = pa.schema(
    {
        "entity_id": pa.large_string(),
        "name": pa.large_string(),
        "description": pa.large_string(),
        "aliases": pa.large_list(pa.large_string()),
        "num_sitelinks": pa.int32(),
        "types": pa.large_list(pa.large_string()),
        "links": pa.large_list(pa.large_string()),
    }
)


@dataclass
class KnowledgeBaseArguments:
    """What to build from what."""

    source: str = field(metadata={"help": "A Wikidata JSON dump (.json, .json.gz, .json.bz2) or JSONL (.jsonl[.gz])."})
    output_dir: str = field(metadata={"help": "Folder of the knowledge base."})
    language: str = field(
        default="en",
        metadata={"help": "Language of names, descriptions and aliases; `pt-br` falls back to `pt`, all to `mul`."},
    )
    exclusions: str | None = field(
        default="configs/knowledge_base_exclusions.yaml",
        metadata={"help": "YAML list of types that no image can show, with a reason each (Wikidata dumps only)."},
    )
    anchor_counts: str | None = field(
        default=None, metadata={"help": "Table `alias <tab> entity_id <tab> count`; sitelinks fill its gaps."}
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "Entity embeddings in PyTorch-BigGraph's format; otherwise made from links."}
    )
    min_sitelinks: int = field(default=0, metadata={"help": "Entities with fewer sitelinks are left out."})
    num_processes: int = field(default=1, metadata={"help": "Processes that parse the source."})

    def __post_init__(self) -> None:
        if self.exclusions is not None:
            self.exclusions = str(find_config(self.exclusions) or self.exclusions)


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (args,) = parse_recipe(KnowledgeBaseArguments, description=__doc__)
    print(f"knowledge base: {build_knowledge_base(args)}")


def build_knowledge_base(args: KnowledgeBaseArguments) -> Path:
    """Builds the folder, or finds it already built from the same source and settings.

    Raises:
        ValueError: If the folder holds a knowledge base of another source, other settings or another format, or the
            source has no entity.
    """
    folder = Path(args.output_dir)
    source_hash = hash_sources(args)
    parts = folder / f"parts-{source_hash[:12]}"
    if is_finished(folder, source_hash):
        clear_leftovers(folder, parts)
        return folder
    parts.mkdir(parents=True, exist_ok=True)
    counts = read_entities(
        args.source,
        parts,
        schema=ENTITY_TABLE,
        language=args.language,
        exclusions=read_exclusions(args.exclusions),
        min_sitelinks=args.min_sitelinks,
        num_processes=args.num_processes,
    )
    table = join_parts(parts, folder / "entities.arrow")
    if table.num_rows == 0:
        raise ValueError(f"{args.source} has no entity that can be kept ({counts}); is it JSONL or a Wikidata dump?")
    write_arrays(folder, table, args)
    write_manifest(folder, args, source_hash=source_hash, counts=counts)
    clear_leftovers(folder, parts)
    logger.info("build_knowledge_base: %s", ", ".join(f"{key} {value:,}" for key, value in counts.items()))
    return folder


def is_finished(folder: Path, source_hash: str) -> bool:
    """Whether a folder holds the knowledge base whole; the manifest of one with damaged files is taken away.

    Raises:
        ValueError: If it holds one of another source, other settings or another version of this program.
    """
    found = try_read_json(folder / MANIFEST)
    if found is None:
        return False
    if found["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds a knowledge base of format {found['format_version']}, this program writes "
            f"{FORMAT_VERSION}. Choose another --output_dir, or delete that one."
        )
    if found["source_hash"] != source_hash:
        raise ValueError(
            f"{folder} holds a knowledge base of another source or other settings ({found['source']}). "
            "Choose another --output_dir, or delete that one."
        )
    sizes = found.get("bytes", {})
    damaged = [name for name, size in sizes.items() if not has_size(folder / name, size)]
    if damaged:
        logger.warning("%s: %s missing or cut short; building it again", folder, ", ".join(damaged))
        (folder / MANIFEST).unlink()
    return not damaged


def clear_leftovers(folder: Path, parts: Path) -> None:
    """Deletes the parts, and what builds that were killed had begun to write."""
    shutil.rmtree(parts, ignore_errors=True)
    for path in folder.glob("*.tmp.*"):
        path.unlink(missing_ok=True)


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there with all its bytes."""
    return path.is_file() and path.stat().st_size == size


def hash_sources(args: KnowledgeBaseArguments) -> str:
    """A hash of the settings and of the contents of the files that they name."""
    settings = {key: value for key, value in dataclasses.asdict(args).items() if key not in NOT_CONTENT}
    for key in FILE_SETTINGS:
        if settings[key] is not None:
            if not os.path.isfile(settings[key]):
                raise FileNotFoundError(f"{key} {settings[key]} does not exist")
            settings[key] = fingerprint_file(settings[key])
    return hash_settings([FORMAT_VERSION, settings])


def join_parts(parts: Path, path: Path) -> pa.Table:
    """Writes the parts as one memory-mapped Arrow file in the order of the source; links to entities left out go."""
    files = [pa.ipc.open_file(pa.memory_map(str(part))) for part in sorted(parts.glob("*.arrow"))]
    kept_ids = pa.chunked_array([file.read_all()["entity_id"].combine_chunks() for file in files], pa.large_string())
    with write_whole(path) as temporary, pa.ipc.new_file(str(temporary), ENTITY_TABLE) as writer:
        for file in files:
            writer.write_table(keep_links(file.read_all(), kept_ids))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def keep_links(table: pa.Table, kept_ids: pa.ChunkedArray) -> pa.Table:
    """Leaves in `links` only the entities that are in the knowledge base."""
    links = table["links"].combine_chunks()
    flat = pc.list_flatten(links)
    parents = pc.list_parent_indices(links)
    kept = pc.is_in(flat, value_set=kept_ids)
    counts = np.bincount(parents.filter(kept).to_numpy(), minlength=len(table))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    filtered = pa.LargeListArray.from_arrays(offsets, flat.filter(kept))
    return table.set_column(table.schema.get_field_index("links"), ENTITY_TABLE.field("links"), filtered)


def write_arrays(folder: Path, table: pa.Table, args: KnowledgeBaseArguments) -> None:
    """Writes everything that is made from the entity table."""
    ids = table["entity_id"].to_pylist()
    id_order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int32)
    duplicates = [ids[a] for a, b in zip(id_order[:-1], id_order[1:], strict=True) if ids[a] == ids[b]]
    if duplicates:
        raise ValueError(f"{args.source} has entity_id {duplicates[0]!r} more than once; ids must be unique")
    save(folder, "id_order", id_order)
    save(folder, "entity_ids", np.array([entity_id.encode() for entity_id in ids], dtype=np.bytes_))
    names = table["name"].to_pylist()
    save(folder, "is_proper", np.array([spelling(name) for name in names], dtype=np.int8))
    sitelinks = table["num_sitelinks"].to_numpy().astype(np.float32)
    anchors = read_anchor_counts(args.anchor_counts) if args.anchor_counts else None
    write_alias_table(folder, names, table["aliases"], sitelinks=sitelinks, ids=ids, anchors=anchors)
    tokens = token_table(table)
    frequency = np.bincount(tokens[1], minlength=1 << HASH_BITS)
    weights = np.log((1 + len(ids)) / (1 + frequency)).astype(np.float32)
    save(folder, "token_offsets", tokens[0])
    save(folder, "tokens", tokens[1])
    save(folder, "inverse_frequency", weights)
    save(folder, "description_norms", token_norms(tokens, weights))
    save(folder, "popularity", popularity(sitelinks))
    save(folder, "lower_odds", lower_odds_table(filter(None, iterate_values(table["description"]))))
    links = link_table(table, ids)
    for name, array in link_arrays(links).items():
        save(folder, name, array)
    if args.embeddings:
        embeddings = read_biggraph_embeddings(args.embeddings, ids)
    else:
        embeddings = embed_from_graph(links, tokens, inverse_frequency=weights)
    save(folder, "embeddings", embeddings)


def save(folder: Path, name: str, array: np.ndarray) -> None:
    """Writes one array of the knowledge base."""
    write_array(folder / f"{name}.npy", array)


def popularity(sitelinks: np.ndarray) -> np.ndarray:
    """Minus the log of the share of entities with more sitelinks, ties halved; 0 where all have as many, float32.

    A rank, not a count: sitelinks, page views and incoming links have scales of their own.
    """
    ordered = np.sort(sitelinks)
    below = np.searchsorted(ordered, sitelinks, "left") + np.searchsorted(ordered, sitelinks, "right")
    if ordered[0] == ordered[-1]:
        return np.zeros(len(sitelinks), np.float32)
    return -np.log1p(-below / (2 * len(sitelinks))).astype(np.float32)


def spelling(name: str) -> int:
    """Whether a name is written as a proper noun, a common noun, or in a script without case."""
    first = next((character for character in name if character.isalpha()), "")
    if first.lower() == first.upper():
        return CASELESS
    return PROPER if any(character.isupper() for character in name) else COMMON


def write_alias_table(
    folder: Path,
    names: list[str],
    aliases: pa.ChunkedArray,
    *,
    sitelinks: np.ndarray,
    ids: list[str],
    anchors: dict[tuple[str, str], int] | None,
) -> None:
    """Writes the trie of alias keys and, per alias, its candidates with their priors, most probable first."""
    keys: list[str] = []
    rows: list[int] = []
    weights: list[float] = []
    forms: list[int] = []
    for row, alias_list in enumerate(iterate_values(aliases)):
        for key, form in entity_keys(names[row], alias_list).items():
            # Counts of anchors where there are any; sitelinks tell the others of an alias apart, below one count.
            weight = sitelinks[row] + 1
            if anchors is not None:
                weight = anchors.get((key, ids[row]), 0) + 0.5 * weight / (weight + ANCHOR_SITELINKS)
            keys.append(key)
            rows.append(row)
            weights.append(weight)
            forms.append(form)
    trie = marisa_trie.Trie(keys)
    with write_whole(folder / "aliases.marisa") as temporary:
        trie.save(str(temporary))
    alias_index = np.fromiter((trie.key_id(key) for key in keys), dtype=np.int64, count=len(keys))
    pairs = (alias_index, np.array(rows, np.int32), np.array(weights, np.float32), np.array(forms, np.int8))
    save_candidates(folder, pairs, num_aliases=len(trie))


def save_candidates(folder: Path, pairs: tuple[np.ndarray, ...], *, num_aliases: int) -> None:
    """Sorts the (alias, entity) pairs by alias, then weight; keeps the likeliest; turns weights into priors."""
    alias_index, rows, weights, forms = pairs
    order = np.lexsort((rows, -weights, alias_index))
    alias_index, rows, weights, forms = alias_index[order], rows[order], weights[order], forms[order]
    starts = np.searchsorted(alias_index, np.arange(num_aliases + 1))
    rank = np.arange(len(rows)) - starts[alias_index] if len(rows) else np.zeros(0, np.int64)
    kept = rank < MAX_CANDIDATES
    alias_index, rows, weights, forms = alias_index[kept], rows[kept], weights[kept], forms[kept]
    totals = np.bincount(alias_index, weights=weights, minlength=num_aliases)
    save(folder, "candidate_offsets", np.searchsorted(alias_index, np.arange(num_aliases + 1)).astype(np.int64))
    save(folder, "candidate_entities", rows)
    save(folder, "candidate_forms", forms)
    save(folder, "candidate_priors", (weights / totals[alias_index]).astype(np.float32))


def entity_keys(name: str, aliases: Iterable[str]) -> dict[str, int]:
    """The distinct keys of an entity, and the bits of `candidate_forms` of each."""
    own = alias_key(name)
    forms: dict[str, int] = {}
    for alias in (name, *aliases):
        key = alias_key(alias)
        if key and len(key) <= MAX_KEY_LENGTH:
            written = ONLY_CAPITALS if len(key) > 1 and alias.isupper() else 0
            forms[key] = forms.get(key, ONLY_CAPITALS) & written
    return {key: form | (OWN_NAME if key == own else 0) for key, form in forms.items()}


def write_manifest(folder: Path, args: KnowledgeBaseArguments, *, source_hash: str, counts: dict[str, int]) -> None:
    """Writes what was built from what, last: a folder with a manifest is finished."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".npy", ".arrow", ".marisa"))
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": args.source,
        "source_hash": source_hash,
        "settings": {key: value for key, value in dataclasses.asdict(args).items() if key not in NOT_CONTENT},
        "counts": counts,
        "files": {name: hash_file(folder / name) for name in names},
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }
    manifest["content_hash"] = hash_settings(manifest["files"])
    write_json(folder / MANIFEST, manifest)


if __name__ == "__main__":
    run_command(main, extra="data")
