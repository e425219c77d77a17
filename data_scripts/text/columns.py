"""Reads whole columns of texts as `tokens` and `letter_case` read one text, most of them without a loop in Python.

A text of plain ASCII without markup, file names or contractions needs a few regular expressions of Arrow; the others
go through the functions for one text. On generated names this takes a fifteenth of the time.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_scripts.text.letter_case import count_cases
from data_scripts.text.tokens import CONTENT_HASHES, STRONG_SEPARATOR, alias_key, hash_token, singular


# Neither markup, an address, a file name, a hashtag nor an apostrophe; `+`, `/` and `.` mean several things.
PLAIN = r"^[A-Za-z0-9 \t_,;:!?()\[\]\"|*=~^${}\\-]*$"
STRONG_GAP = r"[^a-z0-9]*[^a-z0-9 \t_!?-][^a-z0-9]*"
WEAK_GAP = r"[ \t_!?-]+"
EDGES = f" {STRONG_SEPARATOR}"
MAX_REMEMBERED = 500_000

# Values of a column's rows: those of row i are `values[offsets[i]:offsets[i + 1]]`.
Ragged = tuple[np.ndarray, np.ndarray]


def alias_keys(texts: pa.Array) -> pa.Array:
    """`alias_key` of every text."""
    texts = texts.cast(pa.large_string())
    is_plain = pc.match_substring_regex(texts, PLAIN)
    keys = pc.utf8_lower(texts.filter(is_plain))
    keys = pc.replace_substring_regex(keys, STRONG_GAP, STRONG_SEPARATOR)
    keys = pc.utf8_trim(pc.replace_substring_regex(keys, WEAK_GAP, " "), EDGES)
    others = pa.array(map(alias_key, texts.filter(pc.invert(is_plain)).to_pylist()), pa.large_string())
    return pc.replace_with_mask(pc.replace_with_mask(texts, is_plain, keys), pc.invert(is_plain), others)


def hashed_content(keys: pa.Array) -> Ragged:
    """Distinct hashed words of every key, ascending, int32; the words are those of `content_tokens`."""
    owner, words = flatten(pc.split_pattern_regex(keys, f"[{EDGES}]+"))
    distinct = pc.dictionary_encode(words)
    hashes = hash_words(distinct.dictionary)
    hashed = hashes[distinct.indices.to_numpy()] if len(distinct) else hashes
    pairs = np.sort(owner[hashed >= 0] << 32 | hashed[hashed >= 0])
    pairs = pairs[np.r_[True, pairs[1:] != pairs[:-1]][: len(pairs)]]
    return group_by_row(pairs >> 32, (pairs & 0xFFFFFFFF).astype(np.int32), len(keys))


def hash_words(words: pa.Array) -> np.ndarray:
    """The hash of each word's singular, -1 for a number and for nothing, int64."""
    if len(CONTENT_HASHES) > MAX_REMEMBERED:
        CONTENT_HASHES.clear()
    CONTENT_HASHES[""] = -1
    return np.fromiter(map(CONTENT_HASHES.__getitem__, words.to_pylist()), np.int64, len(words))


def count_column_cases(texts: pa.Array, lower: np.ndarray, capital: np.ndarray) -> None:
    """Adds what `count_cases` counts of every text, by the hash of the singular; both int64, [2**20]."""
    texts = texts.cast(pa.large_string())
    is_ascii = pc.string_is_ascii(texts)
    owner, words = flatten(pc.split_pattern_regex(texts.filter(is_ascii), "[^A-Za-z0-9_]+"))
    is_word = pc.match_substring_regex(words, "^[A-Za-z]+$")
    words, owner = words.filter(is_word), owner[is_word.to_numpy(zero_copy_only=False)]
    is_first = np.r_[True, owner[1:] != owner[:-1]][: len(owner)]
    is_lower = pc.utf8_is_lower(words).to_numpy(zero_copy_only=False)
    # With a capital, but not in capitals alone; the first word of a text has one in any case.
    is_capital = pc.match_substring_regex(words, "^[A-Z].*[a-z]").to_numpy(zero_copy_only=False) & ~is_first
    for is_counted, counts in ((is_lower, lower), (is_capital, capital)):
        distinct = pc.value_counts(pc.utf8_lower(words.filter(pa.array(is_counted))))
        hashes = hash_words(distinct.field("values"))
        counts += np.bincount(hashes, distinct.field("counts").to_numpy(), len(counts)).astype(np.int64)
    for text in texts.filter(pc.invert(is_ascii)).to_pylist():
        counted_words: tuple[dict[str, int], dict[str, int]] = ({}, {})
        count_cases(text, *counted_words)
        for found, counts in zip(counted_words, (lower, capital), strict=True):
            for word, count in found.items():
                counts[hash_token(singular(word))] += count


def flatten(lists: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The row of each value of a column of lists, int64, and the values."""
    return pc.list_parent_indices(lists).to_numpy().astype(np.int64), pc.list_flatten(lists)


def group_by_row(rows: np.ndarray, values: np.ndarray, num_rows: int) -> Ragged:
    """Values in the order of their rows with the offsets of each row, int64, [rows + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))]).astype(np.int64), values
