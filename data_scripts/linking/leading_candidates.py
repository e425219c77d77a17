"""The few likeliest candidates of each mention, with their embeddings: those that context and coherence compare.

A name of ten candidates has seven that nothing in the text speaks for. Their embeddings would be most of what linking
reads, at random places of a large file, and could not change the answer.
"""

from dataclasses import dataclass

import numpy as np

from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking.link_evidence import Candidates


# Our default: more of them change no link of the sample.
NUM_LEADING = 3


@dataclass(frozen=True)
class LeadingCandidates:
    """Up to L candidates a mention, the likeliest first.

    Attributes:
        candidate: Place of each in the flat candidates, -1 where a mention has fewer than L, [M, L].
        embeddings: Their unit-length graph embeddings, zero where there is none, [M, L, D].
    """

    candidate: np.ndarray
    embeddings: np.ndarray

    @classmethod
    def of(
        cls, flat: Candidates, logits: np.ndarray, kb: KnowledgeBase, *, num: int = NUM_LEADING
    ) -> "LeadingCandidates":
        """Takes the `num` candidates of each mention that score highest so far; the first of equals."""
        candidate = np.full((len(flat.text), num), -1)
        left, starts = logits.copy(), flat.starts
        # A maximum for each rank costs a fraction of what sorting all candidates does.
        for rank in range(num):
            best = first_of_equals(left, np.maximum.reduceat(left, starts), flat.mention)
            candidate[flat.mention[best], rank] = best
            left[best] = -np.inf
        embeddings = np.zeros((*candidate.shape, kb.embeddings.shape[1]), dtype=np.float32)
        exists = candidate >= 0
        embeddings[exists] = kb.embeddings[flat.entity[candidate[exists]]]
        return cls(candidate, embeddings)

    def similarity(self, vectors: np.ndarray) -> np.ndarray:
        """Dot product of each candidate with a vector of its mention, [M, L], from [M, D]."""
        return np.einsum("mld,md->ml", self.embeddings, vectors)

    def add_to(self, logits: np.ndarray, evidence: np.ndarray) -> None:
        """Adds evidence, [M, L], to the flat logits, [K], in place."""
        exists = self.candidate >= 0
        logits[self.candidate[exists]] += evidence[exists]

    def others(self, probability: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Direction of the expected entities of a text's other mentions; zero for a mention alone, [M, D].

        Args:
            probability: Of the flat candidates, [K].
            text: Text of each mention, ascending, [M].
        """
        share = np.where(self.candidate >= 0, probability[self.candidate], 0).astype(np.float32)
        expected = np.einsum("ml,mld->md", share, self.embeddings)
        firsts = np.flatnonzero(np.r_[True, text[1:] != text[:-1]])
        counts = np.diff(np.r_[firsts, len(text)])
        others = np.repeat(np.add.reduceat(expected, firsts, axis=0), counts, axis=0) - expected
        others[np.repeat(counts, counts) == 1] = 0
        return others / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-6)


def first_of_equals(logits: np.ndarray, highest: np.ndarray, mention: np.ndarray) -> np.ndarray:
    """Place of the first candidate of each mention that has the mention's highest value, unless that is -inf.

    Args:
        logits: [K].
        highest: Largest of the logits of each mention, [M].
        mention: Mention of each candidate, ascending, [K].
    """
    equals = np.flatnonzero((logits == highest[mention]) & (logits > -np.inf))
    owner = mention[equals]
    return equals[np.r_[True, owner[1:] != owner[:-1]]] if len(equals) else equals
