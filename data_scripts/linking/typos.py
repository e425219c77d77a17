"""Finds aliases with one letter wrong, in texts that no alias matches as they are written."""

import string

from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking.match import Match
from data_scripts.text.tokens import hash_token, singular, tokenize_text


# Short words have too many neighbors: `coat` and `goat`, `house` and `mouse`.
MIN_LENGTH = 6


def match_typos(text: str, kb: KnowledgeBase, frequent: set[int]) -> list[Match]:
    """Words one edit away from a single alias; none that the descriptions of the knowledge base have as it is.

    Args:
        frequent: Hashed words of many texts: `sticker` is no misspelt `sticky`.
    """
    tokens = tokenize_text(text)
    found = []
    for start, end, word in zip(tokens.starts, tokens.ends, tokens.words, strict=True):
        token = hash_token(singular(word))
        is_rare = token not in frequent and kb.lower_odds[token] == 0
        if len(word) >= MIN_LENGTH and word.isascii() and word.isalpha() and is_rare:
            aliases = {kb.aliases.get(edited, -1) for edited in edits(word)} - {-1}
            if len(aliases) == 1:
                found.append((start, end, aliases.pop()))
    return found


def edits(word: str) -> set[str]:
    """What one letter left out, added or changed, or two that stand side by side exchanged, makes of a word."""
    cuts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    return {
        *(head + tail[1:] for head, tail in cuts if tail),
        *(head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1),
        *(head + letter + tail[1:] for head, tail in cuts if tail for letter in string.ascii_lowercase),
        *(head + letter + tail for head, tail in cuts for letter in string.ascii_lowercase),
    }
