"""How texts write each word: the log odds of lower case, by which `face` is a word and `China` a name."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from data_scripts.text.letter_case import count_cases
from data_scripts.text.tokens import HASH_BITS, hash_token, singular


# Added to both counts, so that a word seen once says little.
PSEUDO_COUNT = 0.5


def lower_odds(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashed words of some texts in the singular, ascending, and the log odds that they are in lower case.

    A first word with a capital is not counted; nothing is said about a word never seen.
    """
    lower: dict[str, int] = {}
    capital: dict[str, int] = {}
    for text in texts:
        count_cases(text, lower, capital)
    totals = [Counter(), Counter()]
    for counts, total in zip((lower, capital), totals, strict=True):
        for word, count in counts.items():
            total[hash_token(singular(word))] += count
    words = sorted(totals[0].keys() | totals[1].keys())
    odds = [math.log((totals[0][word] + PSEUDO_COUNT) / (totals[1][word] + PSEUDO_COUNT)) for word in words]
    return np.array(words, np.int64), np.array(odds, np.float32)


def lower_odds_table(texts: Iterable[str]) -> np.ndarray:
    """`lower_odds` as a table of all hashes, 0 for a word never seen, float32, [2**20]."""
    table = np.zeros(1 << HASH_BITS, np.float32)
    words, odds = lower_odds(texts)
    table[words] = odds
    return table
