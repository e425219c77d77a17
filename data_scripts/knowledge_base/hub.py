"""Publishes a knowledge base on the Hub as a dataset, and opens one from there."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from data_scripts.knowledge_base.store import MANIFEST, KnowledgeBase, read_manifest
from modeling_mofi.hub.downloads import download, is_hub_id
from modeling_mofi.hub.public_text import public_setting
from modeling_mofi.hub.templates import fill_card
from modeling_mofi.hub.uploads import public_copy, upload_folder
from modeling_mofi.whole_files import write_text


TEMPLATE = Path(__file__).with_name("card.md.jinja")
TABLES = ("*.arrow", "*.npy", "*.marisa")
# By kind of source: in words, and whether it is Wikidata.
SOURCES = {
    "hub": ("Wikidata's tables on the Hub", True),
    "tables": ("a copy of Wikidata's tables", True),
    "dump": ("a dump of Wikidata", True),
    "lines": ("a list of entities", False),
    "knowledge base": ("another knowledge base", False),
}


def publish_knowledge_base(folder: str | Path, repo_id: str, *, private: bool | None = None) -> str:
    """Writes the card, uploads the tables in one commit, and returns the commit's URL.

    Raises:
        FileNotFoundError: If the folder holds no finished knowledge base.
        ConnectionError, PermissionError, ValueError: As `explained_failures`.
    """
    folder = Path(folder)
    write_card(folder, repo_id)
    with public_copy(folder) as public:
        return upload_folder(
            public,
            repo_id,
            patterns=[*TABLES, MANIFEST, "README.md"],
            commit_message=f"Knowledge base {read_manifest(folder)['content_hash'][:16]}",
            private=private,
            kept=f"the knowledge base is in {folder}",
            kind="dataset",
        )


def write_card(folder: Path, repo_id: str) -> None:
    """Writes `README.md`: what it was made from, how large it is, how to use it and how to build it again."""
    kb = KnowledgeBase(folder)
    settings = kb.manifest["settings"]
    words, is_wikidata = SOURCES.get(kb.manifest.get("kind"), ("an earlier source", False))
    is_wikidata = is_wikidata and not settings["extend"]
    metadata = DatasetCardData(
        pretty_name=f"Knowledge base of {len(kb):,} entities",
        license="cc0-1.0" if is_wikidata else None,
        language=[settings["language"]],
        tags=["mofi", "entities", "knowledge-base", *(["wikidata"] if is_wikidata else [])],
        # Its files are memory-mapped by a program; there is nothing to preview.
        viewer=False,
    )
    card = fill_card(
        TEMPLATE,
        DatasetCard,
        metadata,
        repo_id=repo_id,
        num_entities=len(kb),
        source_text=words + (" and entities of one's own" if settings["extend"] else ""),
        counts=count_contents(kb),
        reasons=kb.manifest["counts"],
        revisions={
            settings["hub_tables"].format(table=table): commit for table, commit in kb.manifest["revisions"].items()
        },
        recipe=recipe_text(kb.manifest),
        format_version=kb.manifest["format_version"],
        content_hash=kb.manifest["content_hash"],
        is_wikidata=is_wikidata,
        has_anchors=settings["anchor_counts"] is not None,
    )
    write_text(folder / "README.md", card)


def recipe_text(manifest: dict[str, Any]) -> str:
    """The settings as a recipe that builds the same again, from the same commits of the tables."""
    settings = {name: value for name, value in manifest["settings"].items() if value not in (None, [], False)}
    if manifest["revisions"]:
        settings["hub_revisions"] = [f"{table}={commit}" for table, commit in manifest["revisions"].items()]
    return yaml.safe_dump(public_setting(settings), sort_keys=False, allow_unicode=True)


def count_contents(kb: KnowledgeBase) -> dict[str, int]:
    """How much a knowledge base knows."""
    return {
        "entities": len(kb),
        "aliases": len(kb.aliases),
        "pairs of alias and entity": len(kb.candidates),
        "aliases of several entities": int((kb.offsets[1:] - kb.offsets[:-1] > 1).sum()),
        "links": len(kb.link_targets),
        "bytes": sum(kb.manifest["bytes"].values()),
    }


def find_knowledge_base(name: str) -> tuple[str, str]:
    """The folder of a knowledge base, and its name: a folder's is as given, one on the Hub gets its commit.

    Only the tables are fetched, once; with a commit, and from the cache, no network is needed.

    Args:
        name: A folder, or `user/name` or `user/name@revision` of a dataset on the Hub.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it is of another format, or not whole.
        ConnectionError: If the Hub is out of reach, and it was never fetched.
    """
    repo_id, _, revision = name.partition("@")
    if Path(name).is_dir() or not is_hub_id(repo_id):
        return name, name
    folder = download(repo_id, [MANIFEST, *TABLES], kind="dataset", revision=revision or None)
    sizes = read_manifest(folder)["bytes"]
    wrong = [file for file, size in sizes.items() if not has_size(folder / file, size)]
    if wrong:
        raise ValueError(f"{name} on the Hub is not whole: {', '.join(wrong)} missing or cut short. Publish it again.")
    return str(folder), f"{repo_id}@{folder.name}"


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there with all its bytes."""
    return path.is_file() and path.stat().st_size == size
