"""Learns from a part of the texts what no knowledge base says: which aliases are boilerplate, what words go with what.

The part is fixed by the plan of the shards, so every process and machine learns the same.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.alias_text import alias_key, content_tokens, hash_token, tokenize_text
from data_scripts.entity_embeddings import normalize_rows
from data_scripts.files import write_whole
from data_scripts.knowledge_base import KnowledgeBase, open_knowledge_base
from data_scripts.recognize_mentions import Match, match_aliases, read_stop_words


logger = logging.getLogger(__name__)

# Our defaults. An alias is boilerplate if it stands in many texts, seldom alone, and beside ever other words.
MIN_SHARE = 0.008
MIN_TEXTS = 20
MAX_ALONE_SHARE = 0.12
MIN_NEIGHBOUR_SHARE = 0.3
MIN_CONTEXTS = 5
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class TextStatistics:
    """What the texts say.

    Attributes:
        boilerplate: Indices of the aliases that are boilerplate here, ascending.
        frequent_tokens: Hashed words that say little: function words, boilerplate, and words of many texts, ascending.
        context_tokens: Hashed words with a context vector, ascending.
        context_vectors: Mean embedding of the entities found beside each word, unit length, [tokens, D].
    """

    boilerplate: np.ndarray
    frequent_tokens: np.ndarray
    context_tokens: np.ndarray
    context_vectors: np.ndarray


def count_aliases(
    texts: Iterable[str], *, knowledge_base: str, language: str, boilerplate: Iterable[str] = ()
) -> TextStatistics:
    """Reads texts once and learns their boilerplate and contexts.

    Texts that differ only in numbers count once: `Screenshot 2019-03-12` a thousand times over is one text.

    Args:
        boilerplate: Words and phrases that are boilerplate whatever the texts say.
    """
    kb = open_knowledge_base(knowledge_base)
    stop_words = read_stop_words(language)
    num_texts: dict[int, int] = defaultdict(int)
    num_alone: dict[int, int] = defaultdict(int)
    neighbours: dict[int, set[int]] = defaultdict(set)
    sums: dict[int, np.ndarray] = {}
    observations: dict[int, int] = defaultdict(int)
    word_counts: dict[str, int] = defaultdict(int)
    distinct = dict.fromkeys(DIGITS.sub("0", text) for text in texts)
    for text in distinct:
        matches = match_aliases(text, kb, stop_words=stop_words)
        aliases = {alias for _, _, alias in matches}
        for alias in aliases:
            num_texts[alias] += 1
            num_alone[alias] += len(aliases) == 1
            neighbours[alias] |= aliases - {alias}
        for word in set(content_tokens(tokenize_text(text).key)):
            word_counts[word] += 1
        observe_contexts(text, matches, kb, sums=sums, observations=observations)
    minimum = max(MIN_TEXTS, MIN_SHARE * len(distinct))
    found = {
        alias
        for alias, count in num_texts.items()
        if count >= minimum
        and num_alone[alias] <= MAX_ALONE_SHARE * count
        and len(neighbours[alias]) >= MIN_NEIGHBOUR_SHARE * count
    }
    listed = {kb.aliases.get(alias_key(phrase), -1) for phrase in boilerplate} - {-1}
    kept = sorted(token for token, count in observations.items() if count >= MIN_CONTEXTS)
    vectors = np.array([sums[token] for token in kept], dtype=np.float32).reshape(len(kept), -1)
    vectors = normalize_rows(vectors)
    names = sorted(kb.aliases.restore_key(alias) for alias in found)
    logger.info("count_aliases: %s texts, boilerplate: %s", f"{len(distinct):,}", ", ".join(names) or "none")
    frequent = {word for word, count in word_counts.items() if count >= minimum} | stop_words
    frequent |= {word for phrase in boilerplate for word in content_tokens(alias_key(phrase))}
    return TextStatistics(
        boilerplate=np.array(sorted(found | listed), np.int64),
        frequent_tokens=np.array(sorted({hash_token(word) for word in frequent}), np.int64),
        context_tokens=np.array(kept, np.int64),
        context_vectors=vectors,
    )


def observe_contexts(
    text: str,
    matches: list[Match],
    kb: KnowledgeBase,
    *,
    sums: dict[int, np.ndarray],
    observations: dict[int, int],
) -> None:
    """Adds the embedding of every unambiguous entity of a text to the words that stand outside its mention."""
    for start, end, alias in matches:
        first, last = int(kb.offsets[alias]), int(kb.offsets[alias + 1])
        if last - first != 1:
            continue
        embedding = kb.embeddings[kb.candidates[first]].astype(np.float32)
        for word in context_words(text, start, end):
            token = hash_token(word)
            sums[token] = sums[token] + embedding if token in sums else embedding
            observations[token] += 1


def context_words(text: str, start: int, end: int) -> list[str]:
    """Distinct words of a text outside a span."""
    key = tokenize_text(f"{text[:start]} | {text[end:]}").key
    return list(dict.fromkeys(content_tokens(key)))


def write_text_statistics(statistics: TextStatistics, path: Path) -> None:
    """Writes the statistics in one piece."""
    with write_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **vars(statistics))


@lru_cache(maxsize=2)
def open_text_statistics(path: str) -> TextStatistics:
    """Reads the statistics once per process."""
    with np.load(path) as arrays:
        return TextStatistics(**dict(arrays.items()))
