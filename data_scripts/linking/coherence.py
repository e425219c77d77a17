"""How well each candidate goes with the other mentions of its text: by links where there are links, and by embeddings.

For every other mention the best of its leading candidates speaks, and the mean over the mentions counts. Of what was
measured on AIDA testa this was best: .899 of the mentions right by links alone, against .879 with direct links only,
.842 where the candidates of other mentions speak in proportion to their probability, and .845 without coherence.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from data_scripts.knowledge_base.store import KnowledgeBase
from data_scripts.linking.candidates import Candidates, Evidence, flatten_ranges


COHERENCE = ("relatedness", "near_relatedness", "relative_relatedness", "similarity")
# Candidates of a mention that are compared; 16 changed no figure. And how many of another mention may speak: of 1, 3
# and 10, 3 was best, as the first is wrong too often and the tenth links to anything.
NUM_LEADING, NUM_SPEAKING = 8, 3
# A direct link counts like so much cosine of the links; .15 to .6 measured alike.
DIRECT_LINK = 1 / 3
# Of AIDA testa one pass has .889 right, two have .894.
PASSES = 2
# Pairs compared at once, so that memory does not grow with the length of texts.
MAX_PAIRS = 50_000


@dataclass(frozen=True)
class LeadingCandidates:
    """The likeliest candidates of each mention of the texts that have several mentions.

    Attributes:
        candidate: Places in the flat candidates, grouped by mention, [R].
        mention: Mention of each, ascending, [R].
        text: Text of each, ascending, [R].
        entity: Entity of each, [R].
        rank: 0 for the likeliest of its mention, [R].
        num_others: Other mentions in each text, [R].
    """

    candidate: np.ndarray
    mention: np.ndarray
    text: np.ndarray
    entity: np.ndarray
    rank: np.ndarray
    num_others: np.ndarray

    @classmethod
    def of(cls, flat: Candidates, logits: np.ndarray, *, min_candidates: int = 1) -> "LeadingCandidates":
        """Takes the `NUM_LEADING` candidates of each mention that score highest; the first of equals.

        Args:
            min_candidates: Only of texts that have a mention with so many.
        """
        order = np.lexsort((-logits, flat.mention))
        rank = np.arange(len(order)) - flat.starts[flat.mention]
        num_others = np.bincount(flat.text)[flat.text] - 1
        taken = (num_others > 0) & np.isin(flat.text, flat.text[np.bincount(flat.mention) >= min_candidates])
        kept = (rank < NUM_LEADING) & taken[flat.mention]
        candidate, mention = order[kept], flat.mention[kept]
        text, entity = flat.text[mention], flat.entity[candidate].astype(np.int64)
        return cls(candidate, mention, text, entity, rank[kept], num_others[mention])

    def mean_of_best(self, row: np.ndarray, other: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each candidate the best value of each other mention: their mean, and their sum by nearness, [R] each.

        The mention next to it counts whole, the one after that half, the third a third.

        Args:
            row: A candidate of each pair, [P].
            other: A candidate that speaks, of another mention, [P].
            value: What it says, [P].
        """
        num = len(self.candidate)
        if len(row) == 0:
            return np.zeros(num), np.zeros(num)
        key = row * (self.mention[-1] + 1) + self.mention[other]
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(key[order]) > 0])
        best = np.maximum.reduceat(value[order], starts)
        row, other = row[order][starts], other[order][starts]
        distance = np.abs(self.mention[row] - self.mention[other])
        # One more: a single mention that agrees is less than many that do.
        mean = np.bincount(row, weights=best, minlength=num) / (self.num_others + 1)
        return mean, np.bincount(row, weights=best / distance, minlength=num)


def coherence(flat: Candidates, logits: np.ndarray, kb: KnowledgeBase, weights: dict[str, float]) -> Evidence:
    """What the other mentions say about each candidate, by links and by embeddings, [K] each.

    `relatedness` and `similarity` are means over the other mentions, `near_relatedness` counts the next ones most, and
    `relative_relatedness` is the share of what the best candidate of the mention has: in a knowledge base with few
    links, any link tells. (Of embeddings it does harm: the most similar of unrelated ones says nothing.) Measured
    beside the candidates that lead by the logits, and anew beside those that lead with it.
    """
    evidence = {name: np.zeros(len(logits)) for name in COHERENCE}
    leads = logits
    for number in range(PASSES):
        # Where no mention has more candidates than may speak, another pass would say the same.
        min_candidates = 1 if number == 0 else NUM_SPEAKING + 1
        leading = LeadingCandidates.of(flat, leads, min_candidates=min_candidates)
        if len(leading.candidate) == 0:
            break
        evidence["similarity"][leading.candidate] = similarity(leading, kb)
        if len(kb.link_targets):
            mean, near = relatedness(leading, kb)
            evidence["relatedness"][leading.candidate] = mean
            evidence["near_relatedness"][leading.candidate] = near
            best = np.maximum.reduceat(evidence["relatedness"], flat.starts)[flat.mention]
            evidence["relative_relatedness"] = evidence["relatedness"] / np.maximum(best, 1e-9)
        leads = logits + sum(weights[name] * values for name, values in evidence.items())
    return evidence


def similarity(leading: LeadingCandidates, kb: KnowledgeBase) -> np.ndarray:
    """Cosine of the embeddings of each candidate and those of the other mentions, at least 0, [R]."""
    vectors = kb.embeddings[leading.entity].astype(np.float32)
    speaking = np.flatnonzero(leading.rank < NUM_SPEAKING)
    speaking_text = leading.text[speaking]
    first = np.searchsorted(speaking_text, leading.text, "left")
    last = np.searchsorted(speaking_text, leading.text, "right")
    ends = np.cumsum(last - first)
    result = np.zeros(len(vectors))
    start = 0
    while start < len(vectors):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + MAX_PAIRS, "right")))
        places, row = flatten_ranges(first[start:stop], last[start:stop])
        row, other = row + start, speaking[places]
        apart = leading.mention[row] != leading.mention[other]
        row, other = row[apart], other[apart]
        cosine = np.maximum(np.einsum("pd,pd->p", vectors[row], vectors[other]), 0)
        result += leading.mean_of_best(row, other, cosine)[0]
        start = stop
    return result


def relatedness(leading: LeadingCandidates, kb: KnowledgeBase) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of the weighted links of each candidate and those of the other mentions, direct links beside.

    Returns:
        As `mean_of_best`, [R] each.
    """
    num = len(kb)
    keys, node = np.unique(leading.text * num + leading.entity, return_inverse=True)
    text, entity = keys // num, keys % num
    positions, owner = flatten_ranges(kb.link_offsets[entity], kb.link_offsets[entity + 1])
    target = kb.link_targets[positions]
    target_key = text[owner] * num + target
    # Columns are the neighbors within a text, so one product compares the nodes of every text of the batch.
    row = np.r_[owner, np.arange(len(keys))]
    columns, column = np.unique(np.r_[target_key, keys], return_inverse=True)
    weight = kb.link_weights[np.r_[target, entity]] / kb.link_norms[entity[row]]
    neighbors = scipy.sparse.csr_matrix((weight, (row, column)), shape=(len(keys), len(columns)))
    place = np.minimum(np.searchsorted(keys, target_key), len(keys) - 1)
    is_node = keys[place] == target_key
    links = scipy.sparse.csr_matrix(
        (np.full(int(is_node.sum()), DIRECT_LINK), (owner[is_node], place[is_node])), shape=(len(keys), len(keys))
    )
    pairs = (neighbors @ neighbors.T + links.maximum(links.T)).tocoo()
    return spread_pairs(leading, node, pairs)


def spread_pairs(
    leading: LeadingCandidates, node: np.ndarray, pairs: scipy.sparse.coo_matrix
) -> tuple[np.ndarray, np.ndarray]:
    """`mean_of_best` of values between nodes, where a node is an entity of a text, [R] each.

    Args:
        node: Node of each candidate, [R].
    """
    order = np.argsort(node, kind="stable")
    speaking = order[leading.rank[order] < NUM_SPEAKING]
    edges = np.arange(pairs.shape[0] + 1)
    of_node, of_speaking = np.searchsorted(node[order], edges), np.searchsorted(node[speaking], edges)
    places, pair = flatten_ranges(of_node[pairs.row], of_node[pairs.row + 1])
    row, column, value = order[places], pairs.col[pair], pairs.data[pair]
    places, pair = flatten_ranges(of_speaking[column], of_speaking[column + 1])
    row, other, value = row[pair], speaking[places], value[pair]
    apart = leading.mention[row] != leading.mention[other]
    return leading.mean_of_best(row[apart], other[apart], value[apart])
