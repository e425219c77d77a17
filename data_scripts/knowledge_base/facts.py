"""What a source says about entities, as views of a database: the same ones, whatever the source.

| view | columns |
|---|---|
| heads | position (order of the source, or null), id, name, num_sitelinks, has_image, is_own |
| descriptions | id, description |
| aliases | id, alias, position |
| types | id, target, is_parent (false: an instance of the target, true: a kind of it) |
| parents | id, target: a class and what it is a kind of |
| links | id, target |
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from data_scripts.knowledge_base.database import quote, run_query
from data_scripts.knowledge_base.read_wikidata import IMAGE, KIND_OF, TYPE


VIEWS = ("heads", "descriptions", "aliases", "types", "parents", "links")
# What `str.strip` takes away.
WHITESPACE = "".join(map(chr, filter(lambda code: chr(code).isspace(), range(0x3001))))
FOLDER_BITS = 48


def add_part_facts(connection: duckdb.DuckDBPyConnection, folder: Path, *, prefix: str = "", is_own: bool) -> int:
    """Makes the views of what `read_parts` left in a folder; of an entity that is there twice, the later counts.

    Returns:
        How many records were superseded by later ones.
    """
    connection.execute(f"CREATE VIEW {prefix}parsed AS FROM read_parquet({quote([folder / 'part-*.parquet'])})")
    connection.execute(
        f"""
        CREATE TABLE {prefix}superseded AS SELECT position FROM {prefix}parsed JOIN (
            SELECT entity_id, max(position) AS latest FROM {prefix}parsed GROUP BY entity_id HAVING count(*) > 1
        ) USING (entity_id) WHERE position < latest
        """
    )
    records = f"(FROM {prefix}parsed ANTI JOIN {prefix}superseded USING (position))"
    selects = {
        "heads": "SELECT position, entity_id AS id, name, num_sitelinks, has_image, "
        f"{is_own} AS is_own FROM {records}",
        "descriptions": f"SELECT entity_id AS id, description FROM {records}",
        "aliases": "SELECT entity_id AS id, unnest(aliases) AS alias, generate_subscripts(aliases, 1) AS position "
        f"FROM {records}",
        "types": f"SELECT entity_id AS id, unnest(types) AS target, false AS is_parent FROM {records} "
        f"UNION ALL SELECT entity_id, unnest(parents), true FROM {records}",
        "parents": f"SELECT entity_id AS id, unnest(parents) AS target FROM {records}",
        "links": f"SELECT entity_id AS id, unnest(links) AS target FROM {records}",
    }
    add_views(connection, selects, prefix=prefix)
    return connection.execute(f"SELECT count(*) FROM {prefix}superseded").fetchall()[0][0]


def add_table_facts(
    connection: duckdb.DuckDBPyConnection,
    files: dict[str, dict[str, list[Path]]],
    languages: Sequence[str],
    *,
    prefix: str = "",
) -> None:
    """Makes the views of tables in the layout of the Hub's.

    Args:
        files: Per table (labels, descriptions, aliases, links, claims) and folder in it, the files in their order.
        languages: In which an entity is named, the first that says something counts.
    """
    add_statements(connection, quote([path for paths in files["claims"].values() for path in paths]))
    sites = quote([path for paths in files["links"].values() for path in paths])
    selects = {
        "heads": f"""
            SELECT NULL::BIGINT AS position, id, name, coalesce(number, 0)::INTEGER AS num_sitelinks,
                pictured.id IS NOT NULL AS has_image, false AS is_own
            FROM ({first_language(files["labels"], languages, name="name")})
            LEFT JOIN (SELECT id, count(*) AS number FROM read_parquet({sites}) GROUP BY id) USING (id)
            LEFT JOIN pictured USING (id)""",
        "descriptions": first_language(files["descriptions"], languages, name="description"),
        "aliases": f"SELECT id, value AS alias, position FROM ({in_languages(files['aliases'], languages)})",
        "types": "SELECT id, target, is_parent FROM instances",
        "parents": "SELECT id, target FROM instances WHERE is_parent",
        "links": f"SELECT id, target FROM truthy WHERE property NOT IN ('{TYPE}', '{KIND_OF}')",
    }
    add_views(connection, selects, prefix=prefix)


def add_statements(connection: duckdb.DuckDBPyConnection, files: str) -> None:
    """Makes the view `truthy` of the statements that count, and the small tables `instances` and `pictured` of it."""
    statements = f"read_parquet({files})"
    preferred = f"SELECT DISTINCT id, property FROM {statements} WHERE rank = 'preferred'"
    run_query(connection, f"CREATE TABLE preferred AS {preferred}", "preferred statements")
    connection.execute(
        f"""
        CREATE VIEW counting AS
        SELECT claims.id, claims.property, datavalue.id AS target, datavalue IS NOT NULL AS has_value
        FROM {statements} claims LEFT JOIN preferred USING (id, property)
        WHERE rank = 'preferred' OR (rank = 'normal' AND preferred.id IS NULL);
        CREATE VIEW truthy AS SELECT id, property, target FROM counting WHERE starts_with(target, 'Q');
        """
    )
    instances = f"SELECT id, target, property = '{KIND_OF}' AS is_parent FROM truthy"
    instances += f" WHERE property IN ('{TYPE}', '{KIND_OF}')"
    run_query(connection, f"CREATE TABLE instances AS {instances}", "types")
    pictured = f"SELECT DISTINCT id FROM counting WHERE property = '{IMAGE}' AND has_value"
    run_query(connection, f"CREATE TABLE pictured AS {pictured}", "images")


def first_language(folders: dict[str, list[Path]], languages: Sequence[str], *, name: str) -> str:
    """A query of each item's text in the first language that has one."""
    return f"""
        SELECT id, arg_min({strip("value")}, position) AS {name} FROM ({in_languages(folders, languages)})
        WHERE {strip("value")} <> '' AND starts_with(id, 'Q') GROUP BY id"""


def in_languages(folders: dict[str, list[Path]], languages: Sequence[str]) -> str:
    """A query of the texts in some languages; their `position` is that of the language, then that in its files."""
    queries = []
    for rank, language in enumerate(languages):
        for number, path in enumerate(folders.get(language, ())):
            first = (rank << FOLDER_BITS) + (number << 32)
            file = f"read_parquet({quote([path])}, file_row_number=true)"
            queries.append(f"SELECT id, value, {first} + file_row_number AS position FROM {file}")
    return " UNION ALL ".join(queries)


def put_own_over_others(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the views of all entities out of `base_*` and `own_*`; one's own replace those of the same id."""
    for view in VIEWS:
        connection.execute(
            f"CREATE VIEW {view} AS FROM base_{view} ANTI JOIN own_heads USING (id) UNION ALL FROM own_{view}"
        )


def add_views(connection: duckdb.DuckDBPyConnection, selects: dict[str, str], *, prefix: str) -> None:
    """Makes views."""
    for name, select in selects.items():
        connection.execute(f"CREATE VIEW {prefix}{name} AS {select}")


def strip(column: str) -> str:
    """`str.strip` in SQL."""
    return f"trim({column}, '{WHITESPACE}')"
