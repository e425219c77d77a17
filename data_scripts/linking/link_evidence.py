"""The evidence by which `link_entities` chooses among the candidates of a mention, and tells whether one is meant.

Each piece of evidence is an array with a name; `link_weights.json` has a weight for each name.
"""

from dataclasses import dataclass

import numpy as np

from data_scripts.knowledge_base.store import COMMON, ONLY_CAPITALS, OWN_NAME, PROPER, KnowledgeBase
from data_scripts.linking.candidates import Candidates, Evidence
from data_scripts.linking.statistics import TextStatistics, look_up
from data_scripts.linking.text_words import TextWords
from data_scripts.schema import Batch
from data_scripts.text.letter_case import SPELLING_NUMBERS, SPELLINGS, spelling_class


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
        cls, batch: Batch, flat: Candidates, words: TextWords, kb: KnowledgeBase, learned: TextStatistics
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
    flat: Candidates, about: MentionEvidence, words: TextWords, kb: KnowledgeBase, learned: TextStatistics
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
        **words.description_evidence(flat, kb),
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
        "num_links": np.log1p(kb.link_offsets[flat.entity[best] + 1] - kb.link_offsets[flat.entity[best]]),
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
