"""Builds the knowledge base: entity table, alias table with priors, entity embeddings.

    python -m data_scripts.build_knowledge_base --source sample_data/entities.jsonl.gz --output_dir runs/sample/kb
    python -m data_scripts.build_knowledge_base --source latest-all.json.gz --output_dir runs/wikidata
    python -m data_scripts.build_knowledge_base --source hub --output_dir runs/wikidata --push_to_hub me/wikidata-en-kb

Made once and opened by every build. What was parsed or fetched is not parsed or fetched again after an interruption.
"""

import contextlib
import dataclasses
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.engine.engines import Engine
from data_scripts.engine.files import fingerprint_file, hash_file, hash_settings
from data_scripts.engine.folder_lock import hold_folder
from data_scripts.knowledge_base.database import limits_named, open_database, remove_database
from data_scripts.knowledge_base.facts import add_part_facts, add_table_facts, put_own_over_others
from data_scripts.knowledge_base.folder import clear_leftovers, is_finished, say_disk_use
from data_scripts.knowledge_base.hub import publish_knowledge_base
from data_scripts.knowledge_base.languages import fallback_languages
from data_scripts.knowledge_base.links import write_links
from data_scripts.knowledge_base.read_parts import copy_knowledge_base, read_source
from data_scripts.knowledge_base.selection import Selection, read_exclusions, select_entities
from data_scripts.knowledge_base.store import FORMAT_VERSION, MANIFEST, has_size, read_manifest
from data_scripts.knowledge_base.tables import (
    DEFAULT_TABLES,
    all_paths,
    fetch_tables,
    find_tables,
    list_fetched,
    pin_revisions,
)
from data_scripts.knowledge_base.write_arrays import write_arrays
from data_scripts.knowledge_base.write_entities import join_lists, write_entities
from modeling_mofi.bundled import find_config
from modeling_mofi.hub.uploads import make_repository
from modeling_mofi.recipe_parser import parse_recipe
from modeling_mofi.user_errors import run_command
from modeling_mofi.whole_files import try_read_json, write_json


logger = logging.getLogger(__name__)

HUB = "hub"
DUMP_SUFFIXES = (".json", ".json.gz", ".json.bz2")
# An item that no wiki has a page about is most often one of a bulk import: a star, a gene, a paper.
MIN_SITELINKS = 1
FILE_SETTINGS = ("extend", "exclusions", "anchor_counts", "embeddings", "entity_ids")
PRELOAD = ("data_scripts.knowledge_base.read_parts", "data_scripts.knowledge_base.write_arrays")
# What the joins leave; written last, so that a build that was stopped later does not join again.
JOINED = "joined.json"
JOINS = ("entities.arrow", "entity_ids.npy", "id_order.npy", "popularity.npy", "link_offsets.npy", "link_targets.npy")
JOINS += ("link_weights.npy", "link_norms.npy", "has_image.npy")
NOT_CONTENT = ("output_dir", "num_processes", "memory_gigabytes", "max_bad_lines", "download_dir")
NOT_CONTENT += ("push_to_hub", "private")


@dataclass
class KnowledgeBaseArguments:
    """What to build from what."""

    source: str = field(
        metadata={
            "help": "`hub` for Wikidata's tables on the Hub; a folder with a copy of them; Wikidata's JSON dump "
            "(.json[.gz|.bz2]); one's own entities (.jsonl[.gz|.bz2]); or a built knowledge base, to extend it."
        }
    )
    output_dir: str = field(metadata={"help": "Folder of the knowledge base."})
    extend: str | None = field(
        default=None,
        metadata={
            "help": "JSONL of one's own entities, all kept; they replace those of the source with the same ids."
        },
    )
    language: str = field(
        default="en",
        metadata={"help": "Language of names, descriptions and aliases; `pt-br` falls back to `pt`, all to `mul`."},
    )
    fallback_languages: list[str] = field(
        default_factory=list, metadata={"help": "Further languages to name an entity in that has no name otherwise."}
    )
    exclusions: str | None = field(
        default="configs/knowledge_base_exclusions.yaml",
        metadata={"help": "YAML list of types that no image can show, with a reason each; their kinds go as well."},
    )
    exclude_types: list[str] = field(default_factory=list, metadata={"help": "Ids of further types to leave out."})
    include_types: list[str] = field(
        default_factory=list, metadata={"help": "Ids of types; only their instances, and those of their kinds, stay."}
    )
    min_sitelinks: int | None = field(
        default=None,
        metadata={
            "help": "Leaves out entities that fewer wikis have a page about; by default 1 for Wikidata, else 0."
        },
    )
    only_with_image: bool = field(
        default=False, metadata={"help": "Leaves out entities that have no image on Wikidata (P18)."}
    )
    entity_ids: str | None = field(default=None, metadata={"help": "File of the only ids to keep, one a line."})
    anchor_counts: str | None = field(
        default=None, metadata={"help": "Table `alias <tab> entity_id <tab> count`; sitelinks fill its gaps."}
    )
    embeddings: str | None = field(
        default=None, metadata={"help": "Entity embeddings in PyTorch-BigGraph's format; otherwise made from links."}
    )
    hub_tables: str = field(
        default=DEFAULT_TABLES, metadata={"help": "Ids of the tables on the Hub, with {table} where they differ."}
    )
    hub_revisions: list[str] = field(
        default_factory=list, metadata={"help": "`table=revision`; else the latest, which the manifest records."}
    )
    download_dir: str | None = field(
        default=None, metadata={"help": "Where tables of the Hub are kept; by default `tables` in the output."}
    )
    max_bad_lines: int = field(
        default=100, metadata={"help": "Odd lines that a source may have; they are passed over and counted."}
    )
    num_processes: int = field(default=1, metadata={"help": "Processes that parse, and threads that join."})
    memory_gigabytes: float = field(
        default=4.0, metadata={"help": "Memory of the joins, which spill to disk beyond it."}
    )
    push_to_hub: str | None = field(default=None, metadata={"help": "Dataset on the Hub to publish to."})
    private: bool = field(default=True, metadata={"help": "Whether that dataset is private."})

    def __post_init__(self) -> None:
        if self.exclusions is not None:
            self.exclusions = str(find_config(self.exclusions) or self.exclusions)
        self.languages = fallback_languages(self.language, self.fallback_languages)
        if self.source == HUB:
            self.kind = "hub"
        elif Path(self.source).is_file():
            self.kind = "dump" if self.source.endswith(DUMP_SUFFIXES) else "lines"
        elif (Path(self.source) / "claims").is_dir() or (Path(self.source) / "wikidata-claims").is_dir():
            self.kind = "tables"
        elif Path(self.source, MANIFEST).is_file():
            self.kind = "knowledge base"
        else:
            raise FileNotFoundError(
                f"source {self.source} does not exist, or is a folder without tables and without a knowledge base"
            )

    def least_sitelinks(self) -> int:
        """`min_sitelinks`, or the usual one of the kind of source."""
        usual = MIN_SITELINKS if self.kind in ("hub", "tables", "dump") else 0
        return usual if self.min_sitelinks is None else self.min_sitelinks


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (args,) = parse_recipe(KnowledgeBaseArguments, description=__doc__)
    if args.push_to_hub is not None:
        make_repository(args.push_to_hub, private=args.private, kept="nothing has been built yet", kind="dataset")
    folder = build_knowledge_base(args)
    print(f"knowledge base: {folder}")
    if args.push_to_hub is not None:
        print(publish_knowledge_base(folder, args.push_to_hub, private=args.private))


def build_knowledge_base(args: KnowledgeBaseArguments) -> Path:
    """Builds the folder, or finds it already built from the same source and settings.

    Raises:
        FileNotFoundError: If a file of the settings does not exist.
        ValueError: If the folder holds a knowledge base of another source, other settings or another format, or the
            source has no entity that is kept.
        RuntimeError: If a worker died.
    """
    folder = Path(args.output_dir)
    downloads = Path(args.download_dir) if args.download_dir else folder / "tables"
    content = describe_content(args, downloads)
    source_hash = hash_settings([FORMAT_VERSION, content])
    parts = folder / f"parts-{source_hash[:12]}"
    if is_finished(folder, source_hash) and not parts.exists():
        return folder
    with hold_folder(folder), Engine(num_processes=args.num_processes, preload=PRELOAD) as engine:
        clear_leftovers(folder, keep=parts)
        if not is_finished(folder, source_hash):
            counts = join_once(args, folder, parts, downloads, revisions=content["revisions"], engine=engine)
            write_arrays(
                folder,
                parts,
                engine=engine,
                config_hash=source_hash,
                anchor_counts=args.anchor_counts,
                embeddings_path=args.embeddings,
                memory_gigabytes=args.memory_gigabytes,
            )
            write_manifest(folder, args, content=content, source_hash=source_hash, counts=counts)
            logger.info("build_knowledge_base: %s", ", ".join(f"{key} {value:,}" for key, value in counts.items()))
        clear_leftovers(folder)
    return folder


def describe_content(args: KnowledgeBaseArguments, downloads: Path) -> dict[str, Any]:
    """The settings that the knowledge base depends on, with hashes of the files that they name.

    Raises:
        FileNotFoundError: If a file does not exist.
    """
    content = {key: value for key, value in dataclasses.asdict(args).items() if key not in NOT_CONTENT}
    content |= {"min_sitelinks": args.least_sitelinks(), "revisions": {}}
    for key in FILE_SETTINGS:
        if content[key] is not None:
            if not os.path.isfile(content[key]):
                raise FileNotFoundError(f"{key} {content[key]} does not exist")
            content[key] = fingerprint_file(content[key])
    if args.kind == "hub":
        content["revisions"] = pin_revisions(args.hub_tables, args.hub_revisions, downloads)
    elif args.kind == "tables":
        paths = all_paths(find_tables(Path(args.source), args.languages))
        content["source"] = [[str(path.relative_to(args.source)), fingerprint_file(path)] for path in paths]
    elif args.kind == "knowledge base":
        content["source"] = read_manifest(Path(args.source))["content_hash"]
    else:
        content["source"] = fingerprint_file(args.source)
    return content


def join_once(
    args: KnowledgeBaseArguments,
    folder: Path,
    parts: Path,
    downloads: Path,
    *,
    revisions: dict[str, str],
    engine: Engine,
) -> dict[str, int]:
    """Reads and joins the sources and writes the entity table, if a build that was stopped has not done so.

    Returns:
        Counts of lines and of entities by what became of them.

    Raises:
        ValueError: If no entity is kept.
    """
    joined = try_read_json(parts / JOINED)
    if joined is not None and all(has_size(folder / name, size) for name, size in joined["bytes"].items()):
        return joined["counts"]
    parts.mkdir(parents=True, exist_ok=True)
    counts = read_sources(args, parts, downloads, revisions=revisions, engine=engine)
    for reason, count in join_sources(args, folder, parts, downloads, revisions=revisions).items():
        counts[reason] = counts.get(reason, 0) + count
    if not counts.get("kept"):
        raise ValueError(f"{args.source} has no entity that can be kept ({counts}); is it JSONL or a Wikidata dump?")
    write_json(parts / JOINED, {"counts": counts, "bytes": {name: (folder / name).stat().st_size for name in JOINS}})
    return counts


def read_sources(
    args: KnowledgeBaseArguments, parts: Path, downloads: Path, *, revisions: dict[str, str], engine: Engine
) -> dict[str, int]:
    """Parses or fetches what is not a table on this machine yet; counts lines by what they are."""
    options = {"max_bad_lines": args.max_bad_lines, "engine": engine}
    counts: dict[str, int] = {}
    if args.kind in ("dump", "lines"):
        counts = read_source(args.source, parts / "base", languages=args.languages, **options)
    elif args.kind == "knowledge base":
        copy_knowledge_base(Path(args.source), parts / "base")
    elif args.kind == "hub":
        fetch_tables(args.hub_tables, revisions, downloads, args.languages)
    if args.extend:
        own = read_source(args.extend, parts / "own", languages=args.languages, **options)
        counts["own entities"] = own["read"]
    return counts


def join_sources(
    args: KnowledgeBaseArguments, folder: Path, parts: Path, downloads: Path, *, revisions: dict[str, str]
) -> dict[str, int]:
    """Chooses the entities that are kept, joins what is said about them, and writes the entity table and its links.

    Returns:
        Counts by reason.
    """
    selection = Selection(
        read_exclusions(args.exclusions, args.exclude_types),
        include_types=args.include_types,
        min_sitelinks=args.least_sitelinks(),
        only_with_image=args.only_with_image,
        entity_ids=args.entity_ids,
        language=args.language,
    )
    database = parts / "join.duckdb"
    options = {"memory_gigabytes": args.memory_gigabytes, "num_threads": args.num_processes}
    with contextlib.closing(open_database(database, **options)) as connection, limits_named(database):
        prefix, superseded = "base_" if args.extend else "", 0
        if args.kind in ("hub", "tables"):
            place = args.source if args.kind == "tables" else None
            files = find_tables(Path(place), args.languages) if place else list_fetched(downloads, revisions)
            add_table_facts(connection, files, args.languages, prefix=prefix)
        else:
            superseded = add_part_facts(connection, parts / "base", prefix=prefix, is_own=False)
        if args.extend:
            superseded += add_part_facts(connection, parts / "own", prefix="own_", is_own=True)
            put_own_over_others(connection)
        counts = select_entities(connection, selection)
        if counts.get("kept"):
            say_disk_use(folder, counts["kept"])
            join_lists(connection)
            write_links(connection, folder, num_rows=write_entities(connection, folder))
    remove_database(database)
    return counts | ({"superseded by a later line": superseded} if superseded else {})


def write_manifest(
    folder: Path, args: KnowledgeBaseArguments, *, content: dict[str, Any], source_hash: str, counts: dict[str, int]
) -> None:
    """Writes what was built from what, last: a folder with a manifest is finished."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".npy", ".arrow", ".marisa"))
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": args.source,
        "kind": args.kind,
        "source_hash": source_hash,
        "revisions": content["revisions"],
        "settings": {key: value for key, value in dataclasses.asdict(args).items() if key not in NOT_CONTENT},
        "counts": dict(sorted(counts.items())),
        "files": {name: hash_file(folder / name) for name in names},
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }
    manifest["content_hash"] = hash_settings(manifest["files"])
    write_json(folder / MANIFEST, manifest)


if __name__ == "__main__":
    run_command(main, extra="data")
