"""Reads one line of a Wikidata JSON dump, or of JSONL of one's own entities."""

from collections.abc import Iterable, Iterator, Sequence


TYPE, KIND_OF, IMAGE = "P31", "P279", "P18"
TEXT_LISTS = ("aliases", "types", "links")

Entity = dict[str, object]


class OddRecord(Exception):
    """A record that is not what its format says; the message is the same for all of a kind, to be counted by it."""


def read_record(record: object, *, languages: Sequence[str]) -> Entity | str:
    """One line of a source as an entity, or the reason why it is none.

    Raises:
        OddRecord: If it is not what the format says.
        ValueError: If a line of one's own has a text where a list belongs, which would become a list of letters.
    """
    if not isinstance(record, dict):
        raise OddRecord("line is no JSON object")
    if "entity_id" in record:
        return read_plain_record(record)
    if "redirect" in record:
        return "is a redirect"
    if record.get("type", "item") != "item":
        return f"is a {record['type']}"
    if not isinstance(record.get("id"), str):
        raise OddRecord("neither `entity_id` (JSONL) nor `id` (Wikidata)")
    try:
        return read_wikidata_record(record, languages=languages)
    except (AttributeError, KeyError, TypeError):
        raise OddRecord("not the form of Wikidata's dump; simplified?") from None


def read_plain_record(record: dict) -> Entity:
    """A JSONL line `{entity_id, name, description, aliases[, num_sitelinks, types, links, has_image]}`.

    Raises:
        ValueError: If `aliases`, `types` or `links` is not a list of texts, or a name or a number is none.
    """
    lists = {name: record.get(name) or [] for name in TEXT_LISTS}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"`{name}` must be a list of texts, got {values!r:.80}")
    for name in ("name", "description"):
        if not isinstance(record.get(name) or "", str):
            raise ValueError(f"`{name}` must be a text, got {record[name]!r:.80}")
    num_sitelinks = record.get("num_sitelinks") or 0
    if not isinstance(num_sitelinks, int) or num_sitelinks < 0:
        raise ValueError(f"`num_sitelinks` must be a number that is not negative, got {num_sitelinks!r:.80}")
    return {
        "entity_id": str(record["entity_id"]),
        "name": (record.get("name") or "").strip(),
        "description": (record.get("description") or "").strip(),
        "aliases": [alias for alias in lists["aliases"] if alias],
        "num_sitelinks": num_sitelinks,
        "types": lists["types"],
        "parents": [],
        "links": lists["links"],
        "has_image": bool(record.get("has_image")),
    }


def read_wikidata_record(record: dict, *, languages: Sequence[str]) -> Entity:
    """An item of the dump, named in the first language that has a name; aliases of all of the languages.

    Raises:
        OddRecord: If a name is null.
        AttributeError, KeyError, TypeError: If it has another form.
    """
    claims = record.get("claims") or {}
    targets = {name: list(claim_targets(truthy(statements))) for name, statements in claims.items()}
    types, parents = targets.pop(TYPE, []), targets.pop(KIND_OF, [])
    aliases = record.get("aliases") or {}
    return {
        "entity_id": record["id"],
        "name": term(record.get("labels") or {}, languages),
        "description": term(record.get("descriptions") or {}, languages),
        "aliases": [entry["value"] for code in languages for entry in aliases.get(code, ())],
        "num_sitelinks": len(record.get("sitelinks") or {}),
        "types": types,
        "parents": parents,
        "links": list(dict.fromkeys(target for found in targets.values() for target in found)),
        "has_image": any(has_value(statement) for statement in truthy(claims.get(IMAGE, []))),
    }


def term(terms: dict, languages: Iterable[str]) -> str:
    """A label or description in the first language that has one, else nothing."""
    for code in languages:
        if code in terms:
            value = terms[code]["value"]
            if value is None:
                raise OddRecord("a name or description is null")
            if value := value.strip():
                return value
    return ""


def truthy(statements: Sequence[dict]) -> Sequence[dict]:
    """The statements of a property that count: the preferred ones alone if there are any, else the normal ones."""
    if len(statements) == 1 and statements[0].get("rank") != "deprecated":
        return statements
    preferred = [statement for statement in statements if statement.get("rank") == "preferred"]
    return preferred or [statement for statement in statements if statement.get("rank") != "deprecated"]


def has_value(statement: dict) -> bool:
    """Whether a statement names something, and not that its value is unknown or that there is none."""
    return (statement.get("mainsnak") or {}).get("snaktype") == "value"


def claim_targets(statements: Iterable[dict]) -> Iterator[str]:
    """Ids of the items that statements point to."""
    for statement in statements:
        if has_value(statement):
            value = statement["mainsnak"].get("datavalue") or {}
            if value.get("type") == "wikibase-entityid" and value["value"].get("entity-type", "item") == "item":
                yield value["value"].get("id") or f"Q{value['value']['numeric-id']}"
