"""Learns from a part of the texts what no knowledge base says.

Which aliases are boilerplate, what words go with what, and which names are written with a capital. The plan of the
shards fixes the part that is read, so every process and machine learns the same.
"""

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.engine.files import save_arrays
from data_scripts.knowledge_base.graph_embeddings import normalize_rows
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.linking.match import AliasMatcher, Match, open_matcher
from data_scripts.text.letter_case import spelling_class
from data_scripts.text.tokens import alias_key, content_tokens, hash_token, tokenize_text
from data_scripts.text.web_text import read_web_text


logger = logging.getLogger(__name__)

# Our defaults. An alias is boilerplate if it stands in many texts, seldom alone, and beside ever other words.
MIN_SHARE = 0.008
MIN_TEXTS = 20
MAX_ALONE_SHARE = 0.12
MIN_NEIGHBOUR_SHARE = 0.3
MIN_CONTEXTS = 5
MAX_CASE_EVIDENCE = 2.0
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class TextStatistics:
    """What the texts say.

    Attributes:
        boilerplate: Indices of the aliases that are boilerplate here, ascending.
        frequent_tokens: Hashed words that say little: function words, boilerplate, and words of many texts, ascending.
        context_tokens: Hashed words with a context vector, ascending.
        context_vectors: Mean embedding of the entities found beside each word, unit length, [tokens, D].
        case_aliases: Aliases whose spelling the texts show, ascending.
        case_evidence: Log odds of a capital for each of those, where a text that uses capitals had the choice.
    """

    boilerplate: np.ndarray
    frequent_tokens: np.ndarray
    context_tokens: np.ndarray
    context_vectors: np.ndarray
    case_aliases: np.ndarray
    case_evidence: np.ndarray

    def case_evidence_of(self, aliases: np.ndarray) -> np.ndarray:
        """Log odds of a capital for some aliases; 0 where the texts have shown nothing."""
        if len(self.case_aliases) == 0:
            return np.zeros(len(aliases))
        found = np.minimum(np.searchsorted(self.case_aliases, aliases), len(self.case_aliases) - 1)
        return np.where(self.case_aliases[found] == aliases, self.case_evidence[found], 0.0)


def learn_statistics(
    texts: Iterable[str], *, knowledge_base: str, language: str, boilerplate: Iterable[str] = ()
) -> TextStatistics:
    """Reads texts once and learns their boilerplate and contexts.

    Texts that differ only in numbers count once: `Screenshot 2019-03-12` a thousand times over is one text.

    Args:
        boilerplate: Words and phrases that are boilerplate whatever the texts say.
    """
    kb = open_knowledge_base(knowledge_base)
    matcher = open_matcher(kb, language)
    counter = TextCounter(matcher)
    distinct = dict.fromkeys(DIGITS.sub("0", read_web_text(text)) for text in texts)
    for text in distinct:
        counter.add(text)
    minimum = max(MIN_TEXTS, MIN_SHARE * len(distinct))
    found = counter.boilerplate(minimum)
    names = sorted(kb.aliases.restore_key(alias) for alias in found)
    logger.info("learn_statistics: %s texts, boilerplate: %s", f"{len(distinct):,}", ", ".join(names) or "none")
    listed = {kb.aliases.get(alias_key(phrase), -1) for phrase in boilerplate} - {-1}
    frequent = {word for word, count in counter.word_counts.items() if count >= minimum} | matcher.stop_words
    frequent |= {word for phrase in boilerplate for word in content_tokens(alias_key(phrase))}
    context_tokens, context_vectors = counter.contexts()
    case_aliases, case_evidence = counter.cases()
    return TextStatistics(
        boilerplate=np.array(sorted(found | listed), np.int64),
        frequent_tokens=np.array(sorted({hash_token(word) for word in frequent}), np.int64),
        context_tokens=context_tokens,
        context_vectors=context_vectors,
        case_aliases=case_aliases,
        case_evidence=case_evidence,
    )


class TextCounter:
    """Counts aliases and words, and what stands beside what, text by text."""

    def __init__(self, matcher: AliasMatcher) -> None:
        self.kb = matcher.kb
        self.matcher = matcher
        self.num_texts: Counter[int] = Counter()
        self.num_alone: Counter[int] = Counter()
        self.neighbours: dict[int, set[int]] = defaultdict(set)
        self.word_counts: Counter[str] = Counter()
        self.sums: dict[int, np.ndarray] = {}
        self.observations: Counter[int] = Counter()
        self.num_capital: Counter[int] = Counter()
        self.num_lower: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Counts one text."""
        matches = self.matcher.match(text)
        aliases = {alias for _, _, alias in matches}
        for alias in aliases:
            self.num_texts[alias] += 1
            self.num_alone[alias] += len(aliases) == 1
            self.neighbours[alias] |= aliases - {alias}
        self.word_counts.update(set(content_tokens(tokenize_text(text).key)))
        for match in matches:
            self.observe(text, match)

    def observe(self, text: str, match: Match) -> None:
        """Counts the spelling; adds the embedding of an unambiguous entity to the words outside its mention."""
        start, end, alias = match
        spelling = spelling_class(text, start, text[start:end])
        self.num_capital[alias] += spelling == "capital"
        self.num_lower[alias] += spelling == "lower_in_mixed"
        first, last = int(self.kb.offsets[alias]), int(self.kb.offsets[alias + 1])
        if last - first != 1:
            return
        embedding = self.kb.embeddings[self.kb.candidates[first]].astype(np.float32)
        for word in context_words(text, start, end):
            token = hash_token(word)
            self.sums[token] = self.sums[token] + embedding if token in self.sums else embedding
            self.observations[token] += 1

    def boilerplate(self, minimum: float) -> set[int]:
        """Aliases of at least `minimum` texts that seldom stand alone and have ever other neighbours."""
        return {
            alias
            for alias, count in self.num_texts.items()
            if count >= minimum
            and self.num_alone[alias] <= MAX_ALONE_SHARE * count
            and len(self.neighbours[alias]) >= MIN_NEIGHBOUR_SHARE * count
        }

    def contexts(self) -> tuple[np.ndarray, np.ndarray]:
        """Words seen often enough beside unambiguous entities, and the mean embedding of those."""
        kept = sorted(token for token, count in self.observations.items() if count >= MIN_CONTEXTS)
        vectors = np.zeros((len(kept), self.kb.embeddings.shape[1]), dtype=np.float32)
        for row, token in enumerate(kept):
            vectors[row] = self.sums[token]
        return np.array(kept, np.int64), normalize_rows(vectors)

    def cases(self) -> tuple[np.ndarray, np.ndarray]:
        """Aliases with a spelling that tells, and the log odds of a capital, within `MAX_CASE_EVIDENCE`."""
        odds = {
            alias: math.log((self.num_capital[alias] + 1) / (self.num_lower[alias] + 1))
            for alias in sorted(self.num_texts)
        }
        shown = {alias: value for alias, value in odds.items() if value}
        evidence = np.clip(np.array(list(shown.values()), np.float64), -MAX_CASE_EVIDENCE, MAX_CASE_EVIDENCE)
        return np.array(list(shown), np.int64), evidence


def context_words(text: str, start: int, end: int) -> list[str]:
    """Distinct words of a text outside a span."""
    key = tokenize_text(f"{text[:start]} | {text[end:]}").key
    return list(dict.fromkeys(content_tokens(key)))


def write_text_statistics(statistics: TextStatistics, path: Path) -> None:
    """Writes the statistics to a path of any ending."""
    save_arrays(path, **vars(statistics))
    open_text_statistics.cache_clear()


@lru_cache(maxsize=2)
def open_text_statistics(path: str) -> TextStatistics:
    """Reads the statistics once per process."""
    with np.load(path) as arrays:
        return TextStatistics(**dict(arrays.items()))
