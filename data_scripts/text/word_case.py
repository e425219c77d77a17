"""How texts write each word: the log odds of lower case, by which `face` is a word and `China` a name."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from data_scripts.text.letter_case import count_cases
from data_scripts.text.tokens import hash_token, singular


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
    words = np.array(sorted(totals[0].keys() | totals[1].keys()), np.int64)
    return words, log_odds(*(np.array([total[word] for word in words.tolist()], np.int64) for total in totals))


def log_odds(lower: np.ndarray, capital: np.ndarray) -> np.ndarray:
    """Log odds of lower case by how often each word is in lower case and with a capital; 0 for one never seen."""
    odds = np.log((lower + PSEUDO_COUNT) / (capital + PSEUDO_COUNT))
    return np.where(lower | capital, odds, 0).astype(np.float32)
