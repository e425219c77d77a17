"""Which entities are kept: those with a name, of things that can be seen, that somebody wrote about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import yaml

from data_scripts.knowledge_base.database import run_query


@dataclass(frozen=True)
class Selection:
    """What is kept; `Q` ids of types stand for all their kinds as well.

    Attributes:
        exclusions: Type to the reason why its instances are left out, and whether those of its kinds are too.
        include_types: If there are any, only instances of these.
        min_sitelinks: Entities with fewer pages about them are left out.
        only_with_image: Whether entities are left out that have no image on Wikidata.
        entity_ids: File with the only ids to keep, one a line.
        language: For the reason.
    """

    exclusions: dict[str, tuple[str, bool]]
    include_types: Sequence[str] = ()
    min_sitelinks: int = 0
    only_with_image: bool = False
    entity_ids: str | None = None
    language: str = "en"


def read_exclusions(path: str | None, extra: Sequence[str] = ()) -> dict[str, tuple[str, bool]]:
    """Reads the list of `{type, name, reason[, kinds]}`: which types are left out, why, and whether their kinds are.

    Args:
        extra: Ids of further types to leave out.

    Raises:
        ValueError: If an entry lacks its type, its name or its reason.
    """
    entries = (yaml.safe_load(Path(path).read_text(encoding="utf-8")) or []) if path else []
    for entry in entries:
        if not isinstance(entry, dict) or not {"type", "name", "reason"} <= entry.keys():
            raise ValueError(f"{path}: every entry needs type, name and reason, got {entry!r}")
    listed = {entry["type"]: (f"is a {entry['name']}", entry.get("kinds", True)) for entry in entries}
    return listed | {type_id: (f"is a {type_id}", True) for type_id in extra}


def read_entity_ids(path: str) -> list[str]:
    """Reads ids, one a line.

    Raises:
        ValueError: If there is none.
    """
    ids = Path(path).read_text(encoding="utf-8-sig").split()
    if not ids:
        raise ValueError(f"--entity_ids {path} names no entity; expected one id a line")
    return ids


def select_entities(connection: duckdb.DuckDBPyConnection, selection: Selection) -> dict[str, int]:
    """Makes the table `kept`, in the order of the source; an entity's row is its `rowid`.

    Needs the views `heads`, `descriptions` and `types` (see `facts.py`).

    Returns:
        Counts: kept, and left out by reason.
    """
    add_closure(connection, "excluded", {key: kinds for key, (_, kinds) in selection.exclusions.items()})
    add_closure(connection, "included", dict.fromkeys(selection.include_types, True))
    ids = read_entity_ids(selection.entity_ids) if selection.entity_ids else []
    register(connection, "wanted", {"id": pa.array(ids, pa.string())})
    reasons = [reason for reason, _ in selection.exclusions.values()]
    register(
        connection, "reasons", {"number": pa.array(range(len(reasons))), "reason": pa.array(reasons, pa.string())}
    )
    run_query(
        connection,
        f"""
        CREATE TABLE decided AS
        SELECT heads.*, CASE
            WHEN name = '' THEN $no_name
            WHEN is_own THEN NULL
            WHEN excluded_by IS NOT NULL THEN (SELECT reason FROM reasons WHERE number = excluded_by)
            WHEN {bool(selection.include_types)} AND NOT coalesce(is_included, false) THEN 'is of no included type'
            WHEN num_sitelinks < $min_sitelinks THEN $few
            WHEN {selection.only_with_image} AND NOT has_image THEN 'has no image'
            WHEN {bool(ids)} AND id NOT IN (SELECT id FROM wanted) THEN 'is not among --entity_ids'
        END AS reason
        FROM heads LEFT JOIN (
            SELECT id, min(excluded.number) AS excluded_by, bool_or(included.type IS NOT NULL) AS is_included
            FROM types LEFT JOIN excluded ON target = excluded.type LEFT JOIN included ON target = included.type
            WHERE excluded.type IS NOT NULL OR included.type IS NOT NULL GROUP BY id
        ) USING (id)
        """,
        "entities",
        {
            "no_name": f"no name in {selection.language}",
            "few": f"fewer than {selection.min_sitelinks} sitelinks",
            "min_sitelinks": selection.min_sitelinks,
        },
    )
    run_query(
        connection,
        """
        CREATE TABLE kept AS
        SELECT id, name, coalesce(description, '') AS description, num_sitelinks, has_image
        FROM decided LEFT JOIN descriptions USING (id) WHERE reason IS NULL ORDER BY position, id
        """,
        "descriptions",
    )
    counts = connection.execute("SELECT coalesce(reason, 'kept'), count(*) FROM decided GROUP BY ALL").fetchall()
    connection.execute("DROP TABLE decided")
    return dict(sorted(counts))


def add_closure(connection: duckdb.DuckDBPyConnection, name: str, types: dict[str, bool]) -> None:
    """Makes a table of types and, where asked for, all that are kinds of them; `number` is the first that they are of.

    Args:
        types: Id to whether its kinds belong to it.
    """
    columns = {
        "number": pa.array(range(len(types)), pa.int64()),
        "type": pa.array(types, pa.string()),
        "has_kinds": pa.array(types.values(), pa.bool_()),
    }
    register(connection, f"{name}_roots", columns)
    # UNION, not UNION ALL: on Wikidata some kinds are kinds of themselves.
    connection.execute(
        f"""
        CREATE TABLE {name} AS
        WITH RECURSIVE closure(number, type) AS (
            SELECT number, type FROM {name}_roots WHERE has_kinds
            UNION SELECT number, parents.id FROM parents JOIN closure ON parents.target = closure.type
        )
        SELECT min(number) AS number, type
        FROM (FROM closure UNION ALL SELECT number, type FROM {name}_roots) GROUP BY type
        """
    )


def register(connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, pa.Array]) -> None:
    """Makes a small table of columns."""
    connection.register("columns_of_table", pa.table(columns))
    connection.execute(f"CREATE TABLE {name} AS FROM columns_of_table")
    connection.unregister("columns_of_table")
