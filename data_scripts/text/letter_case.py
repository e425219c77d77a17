"""Reads upper and lower case: what the spelling of a mention says about a proper name, and when it says nothing."""

import re
from functools import lru_cache

from data_scripts.text.tokens import tokenize_text


# Letters with neither a letter nor a digit beside them.
WORD = re.compile(r"(?<!\w)[^\W\d_]+(?!\w)")


def spelling_class(text: str, start: int, written: str) -> str | None:
    """The `LinkWeights` field that speaks about a proper name written like this; None if the spelling says nothing."""
    return lower_class(text, written) if written.islower() else upper_class(text, start, written)


def upper_class(text: str, start: int, written: str) -> str | None:
    """`spelling_class` of a mention with a capital, or without any case."""
    tells = start > 0 and written[:1].isupper() and not text.isupper() and not is_title(text)
    return "capital" if tells else None


def lower_class(text: str, written: str) -> str:
    """`spelling_class` of a mention in lower case."""
    if uses_capitals(text):
        return "lower_in_mixed"
    return "lower_phrase" if is_phrase(written) else "lower_in_lower"


@lru_cache(maxsize=50_000)
def is_phrase(written: str) -> bool:
    """Whether a mention has several words."""
    return len(tokenize_text(written).words) != 1


@lru_cache(maxsize=4096)
def is_title(text: str) -> bool:
    """Whether every word of a text begins with a capital."""
    return all(word[0].isupper() for word in text.split() if word[0].isalpha())


@lru_cache(maxsize=4096)
def uses_capitals(text: str) -> bool:
    """Whether a text capitalises names; its first word, acronyms and words with digits do not tell."""
    if text[1:] == text[1:].lower():
        return False
    words = WORD.findall(text.replace("_", " "))
    return any(word[:1].isupper() and not word.isupper() for word in words[1:])
