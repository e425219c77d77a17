"""The types of values in Python are those of the columns."""

from typing import get_type_hints

import pytest

from data_scripts import schema


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (schema.Mention, schema.MENTION),
        (schema.Candidate, schema.CANDIDATE),
        (schema.ScoredCandidate, schema.SCORED_CANDIDATE),
        (schema.KeptEntity, schema.KEPT_ENTITY),
        (schema.Entity, schema.ENTITY),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_have_the_fields_of_their_column(values, column):
    python = {"string": str, "int32": int, "float": float}
    assert get_type_hints(values) == {field.name: python[str(field.type)] for field in column}
