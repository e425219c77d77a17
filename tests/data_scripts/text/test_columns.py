"""Columns of texts are read as one text is."""

import random

import numpy as np
import pyarrow as pa
import pytest

from data_scripts.text.columns import alias_keys, count_column_cases, hashed_content
from data_scripts.text.letter_case import count_cases
from data_scripts.text.tokens import HASH_BITS, alias_key, content_tokens, hash_token, singular


WRITTEN = [
    "Foo's bar",
    "a_b.png",
    "http://x y",
    "AC/DC",
    "Foo (bar)",
    "a, b",
    "C++",
    "#RedPanda",
    " x",
    "",
    "İzmir",
    "東京",
]
CHARACTERS = "aAbZs019  -_,.'()&+#/@<%!?|\t\"~$é İß—’東"


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(0)
    drawn = ("".join(generator.choices(CHARACTERS, k=generator.randint(0, 14))) for _ in range(20_000))
    plain = ("".join(generator.choices(CHARACTERS[:14] + "()|", k=generator.randint(0, 14))) for _ in range(20_000))
    return [*WRITTEN, *drawn, *plain]


def test_keys_of_a_column_are_those_of_its_texts(texts):
    assert alias_keys(pa.array(texts)).to_pylist() == list(map(alias_key, texts))


def test_hashed_words_of_a_column_are_those_of_its_keys(texts):
    keys = list(map(alias_key, texts))
    offsets, words = hashed_content(pa.array(keys))
    found = [words[first:last].tolist() for first, last in zip(offsets, offsets[1:], strict=False)]
    assert found == [sorted({hash_token(word) for word in content_tokens(key)}) for key in keys]


def test_case_is_counted_of_a_column_as_of_its_texts(texts):
    lower, capital = np.zeros((2, 1 << HASH_BITS), np.int64)
    count_column_cases(pa.array(texts), lower, capital)
    counts = ({}, {})
    for text in texts:
        count_cases(text, *counts)
    for found, expected in zip((lower, capital), counts, strict=True):
        naive = np.zeros(1 << HASH_BITS, np.int64)
        for word, count in expected.items():
            naive[hash_token(singular(word))] += count
        assert np.array_equal(found, naive)


def test_an_empty_column_has_nothing():
    assert alias_keys(pa.array([], pa.string())).to_pylist() == []
    assert [array.tolist() for array in hashed_content(pa.array([], pa.large_string()))] == [[0], []]
