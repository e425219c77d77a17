"""The signs by which `link_entities` tells the candidates of a mention apart: spelling and the words of the text."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_scripts.knowledge_base.store import COMMON, ONLY_CAPITALS, OWN_NAME, PROPER, KnowledgeBase
from data_scripts.linking.statistics import TextStatistics
from data_scripts.schema import Batch
from data_scripts.text.letter_case import lower_class, upper_class
from data_scripts.text.tokens import HASH_BITS, hashed_mention_words, hashed_words


TEXT_SHIFT = 1 << 32


@dataclass(frozen=True)
class LinkWeights:
    """How much each sign of an entity counts, in log odds; our defaults, chosen on the sample's training split.

    Attributes:
        nil: Log odds of "no entity of the knowledge base"; every candidate competes with it.
        prior: Times log P(entity | alias).
        coherence: Times the cosine to the other entities of the text; 0 turns the part off.
        description: Times the cosine of the text's words and the description's; 0 turns the part off.
        context: Times the cosine to the entities that the text's words go with; 0 turns the part off.
        coverage: Times the share of the text's words that the mention covers.
        lower_in_mixed: A proper name in lower case where the text does use capitals.
        lower_in_lower: A proper name of one word in a text all in lower case.
        lower_phrase: The same for a name of several words.
        capital: A proper name with its capital inside a sentence.
        capital_common: A common noun with a capital inside a sentence.
        corpus_case: Times the log odds that the texts write this alias with its capital; for proper names.
        only_capitals: An alias that its entity has in capitals alone (`HEAD`), for a mention in lower case.
        other_name: A proper name called by an alias that is not its own name.
        inside_name: The mention is part of a longer name that the knowledge base does not know.
    """

    nil: float = -1.5
    prior: float = 1.0
    coherence: float = 1.0
    description: float = 3.0
    context: float = 1.5
    coverage: float = 1.5
    lower_in_mixed: float = -4.0
    lower_in_lower: float = -2.5
    lower_phrase: float = -0.5
    capital: float = 0.5
    capital_common: float = -0.5
    corpus_case: float = 1.0
    only_capitals: float = -0.5
    other_name: float = -0.5
    inside_name: float = -1.0

    def without(self, *parts: str) -> "LinkWeights":
        """The weights with some parts turned off."""
        return replace(self, **dict.fromkeys(parts, 0.0))


@dataclass(frozen=True)
class Candidates:
    """Candidates of a batch, flat, grouped by mention, mentions grouped by text.

    Attributes:
        mention: Mention of each candidate, [K].
        entity: Entity row, [K].
        prior: P(entity | alias), [K].
        form: Bits of `KnowledgeBase.candidate_forms`, [K].
        alias: Alias index of each mention, [M].
        text: Text of each mention, [M].
        slot: Position of each mention in its row's list, [M].
        mentions: The mentions themselves, [M].
    """

    mention: np.ndarray
    entity: np.ndarray
    prior: np.ndarray
    form: np.ndarray
    alias: np.ndarray
    text: np.ndarray
    slot: np.ndarray
    mentions: list[dict]

    @property
    def starts(self) -> np.ndarray:
        """First candidate of each mention, [M]; every mention has one."""
        return np.flatnonzero(np.r_[True, self.mention[1:] != self.mention[:-1]])


def flatten_ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the ranges [first, last), one range after another, and the range each comes from."""
    lengths = np.asarray(last - first)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    shift = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(shift - first, lengths), owner


def spelling_evidence(
    batch: Batch, flat: Candidates, kb: KnowledgeBase, *, learned: TextStatistics, weights: LinkWeights
) -> np.ndarray:
    """What upper and lower case say for and against each candidate, [K].

    A text all in capitals, a mention at the beginning and a candidate in a script without case say nothing.
    """
    texts = batch["alt_text"]
    written = [mention["text"] for mention in flat.mentions]
    lower = list(map(str.islower, written))
    classes = [
        lower_class(texts[row], name) if is_lower else upper_class(texts[row], mention["start"], name)
        for row, mention, name, is_lower in zip(flat.text.tolist(), flat.mentions, written, lower, strict=True)
    ]
    value = {None: 0.0} | vars(weights)
    for_proper = np.array([value[name] for name in classes])
    for_common = np.array([weights.capital_common if name == "capital" else 0.0 for name in classes])
    inside = [mention["recognizer"] == "alias in ner" for mention in flat.mentions]
    spelling = kb.is_proper[flat.entity]
    for_proper += weights.corpus_case * learned.case_evidence_of(flat.alias)
    is_other_name = (flat.form & OWN_NAME) == 0
    evidence = np.where(spelling == PROPER, for_proper[flat.mention] + weights.other_name * is_other_name, 0.0)
    evidence += np.where(spelling == COMMON, for_common[flat.mention], 0.0)
    evidence += weights.only_capitals * (np.array(lower)[flat.mention] & ((flat.form & ONLY_CAPITALS) != 0))
    return evidence + weights.inside_name * np.array(inside, dtype=np.float64)[flat.mention]


@dataclass(frozen=True)
class TextWords:
    """Distinct hashed words of the texts of a batch, and of its mentions.

    Attributes:
        text: Text of each word, ascending, [W].
        word: Hashed words, ascending within a text, [W].
        own_mention: Mention of each word of a mention, ascending, [V].
        own_word: Hashed words of mentions, [V].
        num_texts: Texts in the batch.
        frequent: Hashed words that say little, ascending.
    """

    text: np.ndarray
    word: np.ndarray
    own_mention: np.ndarray
    own_word: np.ndarray
    num_texts: int
    frequent: np.ndarray

    @classmethod
    def of(cls, batch: Batch, flat: Candidates, *, frequent: np.ndarray) -> "TextWords":
        """Takes the words of texts and mentions."""
        text, word = flatten_words([hashed_words(text) for text in batch["alt_text"]])
        keys = np.sort(text * TEXT_SHIFT + word)
        own = flatten_words([hashed_mention_words(mention["text"]) for mention in flat.mentions])
        return cls(keys // TEXT_SHIFT, keys % TEXT_SHIFT, *own, len(batch["alt_text"]), frequent)

    def coverage(self, flat: Candidates) -> np.ndarray:
        """Share of the telling words of its text that each mention covers, in [0, 1], [M]."""
        is_telling = ~np.isin(self.word, self.frequent)
        total = np.bincount(self.text[is_telling], minlength=self.num_texts)[flat.text]
        num = len(flat.text)
        hidden = np.bincount(self.own_mention, weights=np.isin(self.own_word, self.frequent), minlength=num)
        covered = np.bincount(self.own_mention, minlength=num)
        return covered / np.maximum(total + hidden, np.maximum(covered, 1))

    def description_similarity(self, flat: Candidates, kb: KnowledgeBase) -> np.ndarray:
        """Cosine of the weighted words of the text and of the candidate's name and description, [K].

        The words of the mention itself do not count: every candidate has them, and a short description would win.
        """
        candidate, tokens = self.shared_words(flat, kb)
        dot = np.bincount(candidate, weights=squared_weights(kb, tokens), minlength=len(flat.mention))
        squares = np.bincount(self.text, weights=squared_weights(kb, self.word), minlength=self.num_texts)
        norms = kb.description_norms[flat.entity] * np.sqrt(squares)[flat.text[flat.mention]]
        return dot / np.maximum(norms, 1e-6)

    def shared_words(self, flat: Candidates, kb: KnowledgeBase) -> tuple[np.ndarray, np.ndarray]:
        """Words of a candidate's description that its text has outside the mention: pairs of candidate and word."""
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
        shared = shared[~np.isin(mention[shared] * TEXT_SHIFT + tokens[shared], own_keys)]
        return candidate[shared], tokens[shared]

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
