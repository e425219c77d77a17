"""The evidence by which `link_entities` chooses among the candidates of a mention, and tells whether one is meant.

Each piece of evidence is an array with a name; `link_weights.json` has a weight for each name.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_scripts.knowledge_base.store import COMMON, ONLY_CAPITALS, OWN_NAME, PROPER, KnowledgeBase
from data_scripts.linking.candidates import Candidates, Evidence, flatten_ranges
from data_scripts.linking.statistics import TextStatistics, look_up
from data_scripts.schema import Batch
from data_scripts.text.letter_case import SPELLING_NUMBERS, SPELLINGS, spelling_class
from data_scripts.text.tokens import HASH_BITS, hashed_mention_words, hashed_words


TEXT_SHIFT = 1 << 32
# The spelling of a mention counts for names and for common nouns apart; candidates in scripts without case have none.
KINDS = ("name", "noun")
SPELLING_WEIGHTS = tuple(f"{kind}:{spelling}" for kind in KINDS for spelling in SPELLINGS)


@dataclass(frozen=True)
class MentionEvidence:
    """What the mentions and their texts show, whatever the candidate, [M] each.

    Attributes:
        spelling: Number of the spelling in `SPELLINGS`.
        lower_descriptions: Mean log odds that the descriptions write its words in lower case.
        lower_texts: The same for the texts that were read for the statistics.
        coverage: Share of the telling words of the text that the mention covers.
        length: Log of its characters.
        continues: Whether a longer name seems to go on: a capital follows, or NER found a longer one.
        followed: Whether another mention follows directly, as `ball` in `tennis ball`.
        preceded: Whether another mention goes directly before.
        acronym: Whether it is in capitals in a text that is not.
        commonness: How common its alias is in the texts.
    """

    spelling: np.ndarray
    lower_descriptions: np.ndarray
    lower_texts: np.ndarray
    coverage: np.ndarray
    length: np.ndarray
    continues: np.ndarray
    followed: np.ndarray
    preceded: np.ndarray
    acronym: np.ndarray
    commonness: np.ndarray

    @classmethod
    def of(
        cls, batch: Batch, flat: Candidates, words: "TextWords", kb: KnowledgeBase, learned: TextStatistics
    ) -> "MentionEvidence":
        """Looks at each mention once."""
        texts = [batch["alt_text"][row] for row in flat.text.tolist()]
        mentions = flat.mentions
        written = [mention["text"] for mention in mentions]
        ends = [mention["end"] for mention in mentions]
        spelling = [
            SPELLING_NUMBERS[spelling_class(text, mention["start"], name)]
            for text, mention, name in zip(texts, mentions, written, strict=True)
        ]
        spelling = np.array(spelling, np.int64)
        goes_on = [
            mention["recognizer"] == "alias in ner"
            or (text[end : end + 1] == " " and text[end + 1 : end + 2].isupper())
            for text, mention, end in zip(texts, mentions, ends, strict=True)
        ]
        is_capital = (spelling == SPELLING_NUMBERS["capital"]) | (spelling == SPELLING_NUMBERS["first_capital"])
        touches = np.array([text[end : end + 1] in (" ", "-", "_") for text, end in zip(texts, ends, strict=True)])
        starts = np.array([mention["start"] for mention in mentions])
        followed = np.zeros(len(mentions))
        followed[:-1] = (flat.text[1:] == flat.text[:-1]) & (starts[1:] - np.array(ends[:-1]) == 1) & touches[:-1]
        is_upper = np.array(list(map(str.isupper, written))) & (spelling != SPELLING_NUMBERS["capitals"])
        length = np.array(list(map(len, written)))
        return cls(
            spelling=spelling,
            lower_descriptions=words.mean_of_mention(kb.lower_odds[words.own_word]),
            lower_texts=words.mean_of_mention(look_up(learned.cased_tokens, learned.lower_odds, words.own_word)),
            coverage=words.coverage(flat),
            length=np.log(length),
            continues=np.array(goes_on) & is_capital,
            followed=followed,
            preceded=np.r_[0.0, followed[:-1]],
            acronym=is_upper & (length > 1),
            commonness=look_up(learned.common_aliases, learned.commonness, flat.alias),
        )


def choice_evidence(
    flat: Candidates, about: MentionEvidence, words: "TextWords", kb: KnowledgeBase, learned: TextStatistics
) -> Evidence:
    """What tells the candidates of a mention apart, coherence aside, [K] each.

    `own_name` and `other_name` say whether the alias is the entity's name, `other_name` of names alone;
    `only_capitals` that the entity has it in capitals alone (`HEAD`) but the mention is in lower case;
    `lower_descriptions` is of names alone.
    """
    is_proper = kb.is_proper[flat.entity] == PROPER
    is_own = (flat.form & OWN_NAME) != 0
    is_lower = np.isin(about.spelling, LOWER)[flat.mention]
    return {
        "prior": np.log(flat.prior.astype(np.float64)),
        "own_name": is_own.astype(np.float64),
        "other_name": (~is_own & is_proper).astype(np.float64),
        "only_capitals": (is_lower & ((flat.form & ONLY_CAPITALS) != 0)).astype(np.float64),
        "lower_descriptions": is_proper * about.lower_descriptions[flat.mention],
        "description": words.description_similarity(flat, kb),
        "context": words.context_similarity(flat, kb, learned),
    }


LOWER = [SPELLING_NUMBERS[name] for name in SPELLINGS if name.startswith("lower")]


def spelling_of(flat: Candidates, about: MentionEvidence, kb: KnowledgeBase) -> np.ndarray:
    """Number in `SPELLING_WEIGHTS` of each candidate, -1 in scripts without case, [K]."""
    kind = kb.is_proper[flat.entity]
    spelling = about.spelling[flat.mention]
    return np.where(kind == PROPER, spelling, np.where(kind == COMMON, len(SPELLINGS) + spelling, -1))


def meaning_evidence(
    best: np.ndarray, choice: Evidence, flat: Candidates, about: MentionEvidence, kb: KnowledgeBase
) -> Evidence:
    """What tells whether any candidate of a mention is meant, by its likeliest one, [M] each.

    Args:
        best: The likeliest candidate of each mention, [M].
        choice: `choice_evidence` and `coherence`, [K] each.
    """
    kind = kb.is_proper[flat.entity[best]]
    is_name, is_noun = (kind == PROPER).astype(np.float64), (kind == COMMON).astype(np.float64)
    names = ("own_name", "only_capitals", "description", "context", "relatedness", "similarity")
    return {
        **{name: choice[name][best] for name in names},
        "popularity": kb.popularity[flat.entity[best]].astype(np.float64),
        "name_lower_descriptions": is_name * about.lower_descriptions,
        "noun_lower_descriptions": is_noun * about.lower_descriptions,
        "name_lower_texts": is_name * about.lower_texts,
        "noun_lower_texts": is_noun * about.lower_texts,
        "coverage": about.coverage,
        "length": about.length,
        "continues": about.continues.astype(np.float64),
        "followed": about.followed,
        "preceded": about.preceded,
        "acronym": about.acronym.astype(np.float64),
        "commonness": about.commonness,
    }


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
