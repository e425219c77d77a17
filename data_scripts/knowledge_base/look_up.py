"""Shows what a knowledge base knows: of a name its candidates, of an entity all that is said of it, and counts.

mofi knowledge-base runs/wikidata
mofi knowledge-base runs/wikidata "eiffel tower"
mofi knowledge-base me/wikidata-en-kb Q243
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from data_scripts.knowledge_base.hub import count_contents, find_knowledge_base
from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.text.tokens import alias_key
from modeling_mofi.user_errors import run_command


COLUMNS = ("name", "description", "aliases", "num_sitelinks", "types", "links", "has_image")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("knowledge_base", help="folder, or user/name[@revision] of a dataset on the Hub")
    parser.add_argument(
        "query", nargs="?", help="a name as texts write it, or the id of an entity; without it, counts"
    )
    parser.add_argument("--limit", type=int, default=20, help="most candidates or links to show")
    args = parser.parse_args(argv)
    kb = KnowledgeBase(find_knowledge_base(args.knowledge_base)[0])
    print("\n".join(describe(kb, args.query, limit=args.limit)))


def describe(kb: KnowledgeBase, query: str | None, *, limit: int) -> Iterator[str]:
    """Lines about an entity, a name, or the whole.

    Raises:
        ValueError: If nothing has that name or id.
    """
    if query is None:
        yield from describe_whole(kb)
    elif (row := kb.rows_of([query])[0]) >= 0:
        yield from describe_entity(kb, int(row), limit=limit)
    else:
        yield from describe_name(kb, query, limit=limit)


def describe_whole(kb: KnowledgeBase) -> Iterator[str]:
    """What it was made from, and how much it holds."""
    yield f"{kb.folder}: format {kb.manifest['format_version']}, made from {kb.manifest['source']}"
    for name, count in (count_contents(kb) | kb.manifest["counts"]).items():
        yield f"{count:>15,}  {name}"


def describe_name(kb: KnowledgeBase, name: str, *, limit: int) -> Iterator[str]:
    """The candidates of a name, most probable first.

    Raises:
        ValueError: If it has none; with names that begin alike.
    """
    alias = kb.aliases.get(key := alias_key(name), -1)
    if alias < 0:
        near = list(islice(kb.aliases.iterkeys(key[: max(1, len(key) - 2)]), 5)) if key else []
        hint = f" Names that begin alike: {', '.join(near)}." if near else ""
        raise ValueError(f"{kb.folder} has no name and no id {name!r}.{hint}")
    places = range(kb.offsets[alias], kb.offsets[alias + 1])
    yield f"{name!r} may mean {len(places):,}:"
    rows = kb.candidates[places.start : places.stop][:limit]
    priors = kb.priors[places.start : places.stop]
    facts = zip(kb.entity_ids(rows), *(kb.column(column, rows) for column in ("name", "description")), strict=True)
    for prior, (entity_id, own_name, description) in zip(priors, facts, strict=False):
        yield f"{prior:8.1%}  {entity_id:12} {own_name}" + (f", {description}" if description else "")


def describe_entity(kb: KnowledgeBase, row: int, *, limit: int) -> Iterator[str]:
    """All that is known of an entity; types and links by name where they are entities themselves."""
    facts = {column: kb.column(column, [row])[0] for column in COLUMNS}
    entity_id = kb.entity_ids([row])[0]
    yield f"{entity_id}  {facts['name']}" + (f", {facts['description']}" if facts["description"] else "")
    if re.fullmatch(r"Q\d+", entity_id):
        yield f"{'page':>10}  https://www.wikidata.org/wiki/{entity_id}"
    yield f"{'wikis':>10}  {facts['num_sitelinks']:,}" + ("" if facts["has_image"] else "; no image on Wikidata")
    yield f"{'aliases':>10}  {', '.join(facts['aliases']) or '-'}"
    for column in ("types", "links"):
        ids = facts[column]
        more = f" and {len(ids) - limit:,} more" if len(ids) > limit else ""
        yield f"{column:>10}  {', '.join(named(kb, ids[:limit])) or '-'}{more}"


def named(kb: KnowledgeBase, entity_ids: list[str]) -> Iterator[str]:
    """Ids with the names of those that the knowledge base has."""
    for entity_id, row in zip(entity_ids, kb.rows_of(entity_ids), strict=True):
        yield f"{kb.column('name', [row])[0]} ({entity_id})" if row >= 0 else entity_id


if __name__ == "__main__":
    run_command(main, extra="data")
