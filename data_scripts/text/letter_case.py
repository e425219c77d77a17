"""Reads upper and lower case: how a mention is written, and what its text shows about it."""

import re
from functools import lru_cache

from data_scripts.text.tokens import tokenize_text


# How a mention may be written; the weights have a number for each, for names and for common nouns.
SPELLINGS = (
    "lower_in_mixed",  # In lower case, where the text does use capitals.
    "lower_in_lower",  # One word in a text all in lower case.
    "lower_phrase",  # Several words in such a text.
    "lower_in_title",  # A lower-case word of a text in Title Case.
    "capital",  # With a capital inside a sentence: the one spelling that says `name`.
    "first_capital",  # With a capital at the beginning of a sentence.
    "title",  # With a capital in Title Case.
    "capitals",  # In a text all in capitals.
    "other",  # Acronyms of a text that uses no capitals else, digits, and scripts without case.
)
SPELLING_NUMBERS = {name: number for number, name in enumerate(SPELLINGS)}
# Letters with neither a letter nor a digit beside them.
WORD = re.compile(r"(?<!\w)[^\W\d_]+(?!\w)")
SENTENCE_ENDS = frozenset(".!?:|")


def spelling_class(text: str, start: int, written: str) -> str:
    """Which of the `SPELLINGS` a mention has."""
    case = text_case(text)
    if case == "capitals":
        return "capitals"
    if written.islower():
        if case == "lower":
            return "lower_phrase" if is_phrase(written) else "lower_in_lower"
        return "lower_in_title" if case == "title" else "lower_in_mixed"
    if not written[:1].isupper():
        return "other"
    if case == "title":
        return "title"
    if start == 0 or text[:start].rstrip()[-1:] in SENTENCE_ENDS:
        return "first_capital"
    return "capital" if case == "mixed" else "other"


@lru_cache(maxsize=4096)
def text_case(text: str) -> str:
    """How a text uses capitals: `capitals` alone, `title`, `mixed`, or `lower` if it does not tell names by them."""
    if text.isupper():
        return "capitals"
    if not uses_capitals(text):
        return "lower"
    return "title" if is_title(text) else "mixed"


@lru_cache(maxsize=50_000)
def is_phrase(written: str) -> bool:
    """Whether a mention has several words."""
    return len(tokenize_text(written).words) != 1


def is_title(text: str) -> bool:
    """Whether every word of a text begins with a capital."""
    return not any(word[0].islower() for word in WORD.findall(text.replace("_", " ")))


def uses_capitals(text: str) -> bool:
    """Whether a text capitalizes names; its first word, acronyms and words with digits do not tell."""
    if text[1:] == text[1:].lower():
        return False
    words = WORD.findall(text.replace("_", " "))
    return any(word[:1].isupper() and not word.isupper() for word in words[1:])


def count_cases(text: str, lower: dict[str, int], capital: dict[str, int]) -> None:
    """Adds the words that a text writes in lower case and, not as its first word, with a capital."""
    for index, match in enumerate(WORD.finditer(text)):
        word = match.group()
        if word.islower():
            lower[word] = lower.get(word, 0) + 1
        elif index > 0 and word[0].isupper() and not word.isupper():
            word = word.lower()
            capital[word] = capital.get(word, 0) + 1
