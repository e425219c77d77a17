"""Learns from a part of the texts what no knowledge base says.

Which aliases are in so many of them that they hardly name anything, what words go with what, and which words are
written in lower case. The plan of the shards fixes the part that is read: every process and machine learns the same.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_scripts.engine.files import save_arrays
from data_scripts.knowledge_base.graph_embeddings import normalize_rows
from data_scripts.knowledge_base.store import KnowledgeBase, open_knowledge_base
from data_scripts.linking.match import AliasMatcher, Match, open_matcher
from data_scripts.text.letter_case import text_case
from data_scripts.text.tokens import alias_key, content_tokens, hash_token, tokenize_text
from data_scripts.text.web_text import read_web_text
from data_scripts.text.word_case import lower_odds


logger = logging.getLogger(__name__)

# A word of so many texts says little as context.
MIN_SHARE = 0.008
MIN_TEXTS = 20
MIN_CONTEXTS = 5
# Commonness is log(1 + 20 x share): nothing at .1% of the texts, .3 for the hats of everyday captions (2%), 1.6 for
# the `icon` of every fifth text. Shares are of so many texts more, so that they mean the same in a corpus of any size.
SHARE_SCALE = 20
PSEUDO_TEXTS = 200
MIN_COMMONNESS = 0.02
# Words for the picture itself, which the alt-text of anything may have: no list but a language tells `photo` from the
# `dog` of a collection of dogs. Where they name what is shown, `not_boilerplate` brings them back.
IMAGE_WORDS = {
    "en": (
        *("clip art", "clipart", "close up", "icon", "illustration", "image", "logo", "photo", "photograph"),
        *("photography", "picture", "royalty free", "screenshot", "stock", "stock image", "stock photo"),
        *("stock photography", "thumbnail", "vector", "wallpaper"),
    )
}
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class TextStatistics:
    """What the texts say.

    Attributes:
        dropped: Indices of the aliases that the settings drop, ascending.
        common_aliases: Aliases of many texts that seldom stand alone there, ascending.
        commonness: How common each of those is: evidence against a mention, whatever it names.
        num_texts: In how many texts each of those stands.
        frequent_tokens: Hashed words that say little: function words, dropped ones, those of many texts.
        context_tokens: Hashed words with a context vector, ascending.
        context_vectors: Mean embedding of the entities found beside each word, unit length, [tokens, D].
        cased_tokens: Hashed words that texts with a choice of case have, ascending.
        lower_odds: Log odds of lower case for each of those.
    """

    dropped: np.ndarray
    common_aliases: np.ndarray
    commonness: np.ndarray
    num_texts: np.ndarray
    frequent_tokens: np.ndarray
    context_tokens: np.ndarray
    context_vectors: np.ndarray
    cased_tokens: np.ndarray
    lower_odds: np.ndarray


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of some keys in an ascending array of keys; 0 for those it does not have."""
    if len(keys) == 0:
        return np.zeros(len(wanted))
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[found] == wanted, values[found], 0.0)


def learn_statistics(
    texts: Iterable[str],
    *,
    knowledge_base: str,
    language: str,
    boilerplate: Iterable[str] = (),
    not_boilerplate: Iterable[str] = (),
) -> TextStatistics:
    """Reads texts once and learns what is common, what goes with what, and how words are written.

    Texts that differ only in numbers count once: `Screenshot 2019-03-12` a thousand times over is one text.

    Args:
        boilerplate: Words and phrases that name nothing, whatever the texts say, besides the `IMAGE_WORDS`.
        not_boilerplate: Words and phrases that are never common, however many texts have them, nor image words.
    """
    kb = open_knowledge_base(knowledge_base)
    matcher = open_matcher(kb, language)
    counter = TextCounter(matcher)
    distinct = dict.fromkeys(DIGITS.sub("0", read_web_text(text)) for text in texts)
    for text in distinct:
        counter.add(text)
    minimum = max(MIN_TEXTS, MIN_SHARE * len(distinct))
    kept, listed, image_words = (
        {kb.aliases.get(alias_key(phrase), -1) for phrase in phrases} - {-1}
        for phrases in (not_boilerplate, boilerplate, IMAGE_WORDS.get(language, ()))
    )
    dropped = sorted(listed | (image_words - kept))
    common_aliases, commonness = counter.common(len(distinct), keep=kept | set(dropped))
    frequent = {word for word, count in counter.word_counts.items() if count >= minimum} | matcher.stop_words
    frequent |= {word for phrase in boilerplate for word in content_tokens(alias_key(phrase))}
    context_tokens, context_vectors = counter.contexts()
    # Texts all in one case, and those in Title Case, had no choice.
    cased_tokens, odds = lower_odds(text for text in distinct if text_case(text) == "mixed")
    learned = TextStatistics(
        dropped=np.array(dropped, np.int64),
        common_aliases=common_aliases,
        commonness=commonness,
        num_texts=np.array([counter.num_texts[alias] for alias in common_aliases.tolist()], np.int64),
        frequent_tokens=np.array(sorted({hash_token(word) for word in frequent}), np.int64),
        context_tokens=context_tokens,
        context_vectors=context_vectors,
        cased_tokens=cased_tokens,
        lower_odds=odds,
    )
    common = ", ".join(f"{name} {count:,}" for name, count, _ in most_common(learned, kb, limit=20))
    logger.info("learn_statistics: %s texts, most common: %s", f"{len(distinct):,}", common or "none")
    return learned


def most_common(learned: TextStatistics, kb: KnowledgeBase, *, limit: int) -> list[tuple[str, int, float]]:
    """Key, number of texts and commonness of the aliases that the texts speak most against."""
    order = np.argsort(-learned.commonness, kind="stable")[:limit]
    keys = map(kb.aliases.restore_key, learned.common_aliases[order].tolist())
    return list(zip(keys, learned.num_texts[order].tolist(), learned.commonness[order].tolist(), strict=True))


class TextCounter:
    """Counts aliases and words, and what stands beside what, text by text."""

    def __init__(self, matcher: AliasMatcher) -> None:
        self.kb = matcher.kb
        self.matcher = matcher
        self.num_texts: Counter[int] = Counter()
        self.num_alone: Counter[int] = Counter()
        self.word_counts: Counter[str] = Counter()
        self.sums: dict[int, np.ndarray] = {}
        self.observations: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Counts one text."""
        matches = self.matcher.match(text)
        aliases = {alias for _, _, alias in matches}
        for alias in aliases:
            self.num_texts[alias] += 1
            self.num_alone[alias] += len(aliases) == 1
        self.word_counts.update(set(content_tokens(tokenize_text(text).key)))
        for match in matches:
            self.observe(text, match)

    def observe(self, text: str, match: Match) -> None:
        """Adds the embedding of an unambiguous entity to the words outside its mention."""
        start, end, alias = match
        first, last = int(self.kb.offsets[alias]), int(self.kb.offsets[alias + 1])
        if last - first != 1:
            return
        embedding = self.kb.embeddings[self.kb.candidates[first]].astype(np.float32)
        for word in context_words(text, start, end):
            token = hash_token(word)
            self.sums[token] = self.sums[token] + embedding if token in self.sums else embedding
            self.observations[token] += 1

    def common(self, num_texts: int, *, keep: set[int]) -> tuple[np.ndarray, np.ndarray]:
        """Aliases, ascending, and how common each is: in many texts, and seldom alone."""
        aliases = np.array(sorted(self.num_texts.keys() - keep), np.int64)
        counts = np.array([self.num_texts[alias] for alias in aliases.tolist()], np.float64)
        alone = np.array([self.num_alone[alias] for alias in aliases.tolist()], np.float64)
        commonness = np.log1p(SHARE_SCALE * counts / (num_texts + PSEUDO_TEXTS)) * (1 - (alone + 1) / (counts + 3))
        tells = commonness >= MIN_COMMONNESS
        return aliases[tells], commonness[tells].astype(np.float32)

    def contexts(self) -> tuple[np.ndarray, np.ndarray]:
        """Words seen often enough beside unambiguous entities, and the mean embedding of those."""
        kept = sorted(token for token, count in self.observations.items() if count >= MIN_CONTEXTS)
        vectors = np.zeros((len(kept), self.kb.embeddings.shape[1]), dtype=np.float32)
        for row, token in enumerate(kept):
            vectors[row] = self.sums[token]
        return np.array(kept, np.int64), normalize_rows(vectors)


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
