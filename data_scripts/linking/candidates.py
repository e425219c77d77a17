"""The candidates of a batch on flat arrays: K candidates of M mentions of T texts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_scripts.knowledge_base.store import KnowledgeBase


# An array for each piece of evidence, [K] of candidates or [M] of mentions.
Evidence = dict[str, np.ndarray]


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

    @cached_property
    def starts(self) -> np.ndarray:
        """First candidate of each mention, [M]; every mention has one."""
        return np.flatnonzero(np.r_[True, self.mention[1:] != self.mention[:-1]])


def gather_candidates(mentions: Sequence[list[dict]], kb: KnowledgeBase, *, dropped: np.ndarray) -> Candidates:
    """Looks up the candidates of every mention that is not dropped."""
    every = [mention for found in mentions for mention in found]
    counts = np.array([len(found) for found in mentions], dtype=np.int64)
    alias = np.array([mention["alias"] for mention in every], dtype=np.int64)
    known = alias >= 0
    if len(dropped):
        known &= ~np.isin(alias, dropped)
    slot, text = flatten_ranges(np.zeros_like(counts), counts)
    text, slot, alias = text[known], slot[known], alias[known]
    every = list(itertools.compress(every, known.tolist()))
    first, last = kb.offsets[alias], kb.offsets[alias + 1]
    positions, mention = flatten_ranges(first, last)
    return Candidates(
        mention,
        kb.candidates[positions],
        kb.priors[positions],
        kb.candidate_forms[positions],
        alias,
        text,
        slot,
        every,
    )


def flatten_ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the ranges [first, last), one range after another, and the range each comes from."""
    lengths = np.asarray(last - first)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    shift = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(shift - first, lengths), owner


def first_of_equals(logits: np.ndarray, flat: Candidates) -> np.ndarray:
    """Place of the first candidate of each mention that has the mention's highest value, [M]."""
    equals = np.flatnonzero(logits == np.maximum.reduceat(logits, flat.starts)[flat.mention])
    owner = flat.mention[equals]
    return equals[np.r_[True, owner[1:] != owner[:-1]]]
