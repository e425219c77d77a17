"""The words of texts and mentions, hashed, and what they say about the candidates."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking.candidates import Candidates, Evidence, flatten_ranges
from data_scripts.linking.statistics import TextStatistics
from data_scripts.schema import Batch
from data_scripts.text.tokens import HASH_BITS, hashed_mention_words, hashed_words


TEXT_SHIFT = 1 << 32


@dataclass(frozen=True)
class TextWords:
    """Distinct hashed words of the texts of a batch, and of its mentions.

    Attributes:
        text: Text of each word, ascending, [W].
        word: Hashed words, ascending within a text, [W].
        own_mention: Mention of each word of a mention, ascending, [V].
        own_word: Hashed words of mentions, [V].
        num_texts: Texts in the batch.
        num_mentions: M.
        frequent: Hashed words that say little, ascending.
    """

    text: np.ndarray
    word: np.ndarray
    own_mention: np.ndarray
    own_word: np.ndarray
    num_texts: int
    num_mentions: int
    frequent: np.ndarray

    @classmethod
    def of(cls, batch: Batch, flat: Candidates, *, frequent: np.ndarray) -> "TextWords":
        """Takes the words of texts and mentions."""
        text, word = flatten_words([hashed_words(text) for text in batch["alt_text"]])
        keys = np.sort(text * TEXT_SHIFT + word)
        own = flatten_words([hashed_mention_words(mention["text"]) for mention in flat.mentions])
        return cls(keys // TEXT_SHIFT, keys % TEXT_SHIFT, *own, len(batch["alt_text"]), len(flat.mentions), frequent)

    def coverage(self, flat: Candidates) -> np.ndarray:
        """Share of the telling words of its text that each mention covers, in [0, 1], [M]."""
        is_telling = ~np.isin(self.word, self.frequent)
        total = np.bincount(self.text[is_telling], minlength=self.num_texts)[flat.text]
        num = len(flat.text)
        hidden = np.bincount(self.own_mention, weights=np.isin(self.own_word, self.frequent), minlength=num)
        covered = np.bincount(self.own_mention, minlength=num)
        return covered / np.maximum(total + hidden, np.maximum(covered, 1))

    def description_evidence(self, flat: Candidates, kb: KnowledgeBase) -> Evidence:
        """What the names and descriptions of the candidates have of the words of the text, [K] each.

        `description` is the cosine of weighted words, `named` the share of the words of the mention: `Merkel` is more
        likely Angela Merkel than Germany. Hence they do not count in the cosine, where a short description would win.
        """
        candidate, tokens, is_own = self.shared_words(flat, kb)
        num = len(flat.mention)
        own = np.bincount(candidate[is_own], minlength=num)
        candidate, tokens = candidate[~is_own], tokens[~is_own]
        dot = np.bincount(candidate, weights=squared_weights(kb, tokens), minlength=num)
        squares = np.bincount(self.text, weights=squared_weights(kb, self.word), minlength=self.num_texts)
        norms = kb.description_norms[flat.entity] * np.sqrt(squares)[flat.text[flat.mention]]
        num_words = np.bincount(self.own_mention, minlength=self.num_mentions)[flat.mention]
        return {"description": dot / np.maximum(norms, 1e-6), "named": own / np.maximum(num_words, 1)}

    def shared_words(self, flat: Candidates, kb: KnowledgeBase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words of a text that a candidate's name or description has: candidate, word, whether it is the mention's."""
        positions, candidate = flatten_ranges(kb.token_offsets[flat.entity], kb.token_offsets[flat.entity + 1])
        tokens = kb.tokens[positions]
        is_used = np.zeros(1 << HASH_BITS, dtype=bool)
        is_used[self.word] = True
        possible = np.flatnonzero(is_used[tokens])
        candidate, tokens = candidate[possible], tokens[possible].astype(np.int64)
        mention = flat.mention[candidate]
        keys = self.text * TEXT_SHIFT + self.word
        wanted = flat.text[mention] * TEXT_SHIFT + tokens
        found = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
        shared = np.flatnonzero(keys[found] == wanted)
        own_keys = self.own_mention * TEXT_SHIFT + self.own_word
        is_own = np.isin(mention[shared] * TEXT_SHIFT + tokens[shared], own_keys)
        return candidate[shared], tokens[shared], is_own

    def mean_of_mention(self, values: np.ndarray) -> np.ndarray:
        """Mean over the words of each mention, 0 for a mention without words, [M], from [V]."""
        counts = np.bincount(self.own_mention, minlength=self.num_mentions)
        return np.bincount(self.own_mention, weights=values, minlength=self.num_mentions) / np.maximum(counts, 1)

    def context_similarity(self, flat: Candidates, kb: KnowledgeBase, learned: TextStatistics) -> np.ndarray:
        """Dot product of each ambiguous candidate with the entities that the words of its text go with, [K].

        The embeddings lie at random places of a large file: a candidate without rivals is not worth a look.
        """
        result = np.zeros(len(flat.mention))
        rivals = np.bincount(flat.mention)[flat.mention] > 1
        vectors = self.context_vectors(learned)[flat.text[flat.mention[rivals]]]
        result[rivals] = np.einsum("kd,kd->k", kb.embeddings[flat.entity[rivals]].astype(np.float32), vectors)
        return result

    def context_vectors(self, learned: TextStatistics) -> np.ndarray:
        """Mean of the context vectors of the words of each text, [texts, D]."""
        dimension = learned.context_vectors.shape[1]
        sums = np.zeros((self.num_texts, dimension), dtype=np.float32)
        if len(learned.context_tokens) == 0:
            return sums
        found = np.minimum(np.searchsorted(learned.context_tokens, self.word), len(learned.context_tokens) - 1)
        known = learned.context_tokens[found] == self.word
        text, vectors = self.text[known], learned.context_vectors[found[known]]
        counts = np.bincount(text, minlength=self.num_texts)
        rank = np.arange(len(text)) - (np.cumsum(counts) - counts)[text]
        # The first known word of every text, then every second one, ...: few steps, as texts are short.
        for number in range(counts.max(initial=0)):
            chosen = np.flatnonzero(rank == number)
            sums[text[chosen]] += vectors[chosen]
        return sums / np.maximum(counts, 1)[:, None]


def squared_weights(kb: KnowledgeBase, tokens: np.ndarray) -> np.ndarray:
    """Squared inverse frequency of hashed words."""
    return kb.inverse_frequency[tokens].astype(np.float64) ** 2


def flatten_words(words: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Words of several texts one after another, and the text that each comes from."""
    owner = np.repeat(np.arange(len(words)), [len(found) for found in words])
    return owner, np.fromiter(itertools.chain.from_iterable(words), dtype=np.int64, count=len(owner))
