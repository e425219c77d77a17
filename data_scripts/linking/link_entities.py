"""Links mentions to entities: prior, spelling, coherence with the other entities of the text, and text similarity.

Everything is computed for a whole batch at once on flat arrays: K candidates of M mentions of T texts.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from data_scripts.knowledge_base.store import KnowledgeBase, open_knowledge_base
from data_scripts.linking.leading_candidates import LeadingCandidates, first_of_equals
from data_scripts.linking.link_evidence import Candidates, LinkWeights, TextWords, flatten_ranges, spelling_evidence
from data_scripts.linking.statistics import TextStatistics, open_text_statistics
from data_scripts.schema import DROP_REASON, Batch


ITERATIONS = 2
DEFAULT_WEIGHTS = LinkWeights()


def link_entities(
    batch: Batch,
    *,
    knowledge_base: str,
    statistics: str,
    weights: LinkWeights = DEFAULT_WEIGHTS,
    min_probability: float = 0.5,
    min_candidate_probability: float | None = None,
) -> Batch:
    """Adds `candidates`: the entities that the text makes likely, with prior and probability.

    Args:
        batch: Columns `alt_text` and `mentions`.
        knowledge_base: Folder of a built knowledge base.
        statistics: File of `learn_statistics`.
        min_probability: A mention is an entity if NIL is at most 1 - this likely; its likeliest candidate stays.
        min_candidate_probability: If given, every candidate at least this likely stays, for the image to choose.

    Source: iterative disambiguation by the other entities of the text, MOFI (https://huggingface.co/papers/2306.07952).
    """
    kb = open_knowledge_base(knowledge_base)
    learned = open_text_statistics(statistics)
    flat = gather_candidates(batch["mentions"], kb, boilerplate=learned.boilerplate)
    probability = rank_candidates(batch, flat, kb, learned=learned, weights=weights)
    linked_share = np.bincount(flat.mention, weights=probability, minlength=len(flat.text))
    kept = (linked_share >= min_probability)[flat.mention]
    if min_candidate_probability is None:
        kept &= is_best(flat, probability)
    else:
        kept &= probability >= min_candidate_probability
    linked: list[list[dict]] = [[] for _ in batch["alt_text"]]
    mention = flat.mention[kept]
    columns = (flat.text[mention], flat.slot[mention], flat.prior[kept], probability[kept])
    rows = zip(*(column.tolist() for column in columns), kb.entity_ids(flat.entity[kept]), strict=True)
    for text, slot, prior, likely, entity_id in rows:
        linked[text].append({"mention": slot, "entity_id": entity_id, "prior": prior, "probability": likely})
    has_candidates = np.zeros(len(linked), dtype=bool)
    has_candidates[flat.text] = True
    batch["candidates"] = linked
    batch[DROP_REASON] = [
        None if links else "nothing likely" if known else "no candidate"
        for links, known in zip(linked, has_candidates, strict=True)
    ]
    return batch


def gather_candidates(mentions: Sequence[list[dict]], kb: KnowledgeBase, *, boilerplate: np.ndarray) -> Candidates:
    """Looks up the candidates of every mention that is not boilerplate."""
    every = [mention for found in mentions for mention in found]
    counts = np.array([len(found) for found in mentions], dtype=np.int64)
    alias = np.array([mention["alias"] for mention in every], dtype=np.int64)
    known = alias >= 0
    if len(boilerplate):
        known &= ~np.isin(alias, boilerplate)
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


def rank_candidates(
    batch: Batch, flat: Candidates, kb: KnowledgeBase, *, learned: TextStatistics, weights: LinkWeights
) -> np.ndarray:
    """P(candidate | text), [K]; what is missing to 1 within a mention is NIL."""
    if len(flat.mention) == 0:
        return np.zeros(0)
    words = TextWords.of(batch, flat, frequent=learned.frequent_tokens)
    logits = weights.prior * np.log(flat.prior.astype(np.float64))
    logits += spelling_evidence(batch, flat, kb, learned=learned, weights=weights)
    logits += weights.coverage * words.coverage(flat)[flat.mention]
    if weights.description:
        logits += weights.description * words.description_similarity(flat, kb)
    leading = LeadingCandidates.of(flat, logits, kb) if weights.context or weights.coherence else None
    if weights.context:
        leading.add_to(logits, weights.context * leading.similarity(words.context_vectors(learned)[flat.text]))
    probability = softmax_with_nil(logits, flat, nil=weights.nil)
    for _ in range(ITERATIONS if weights.coherence else 0):
        coherent = logits.copy()
        leading.add_to(coherent, weights.coherence * leading.similarity(leading.others(probability, flat.text)))
        probability = softmax_with_nil(coherent, flat, nil=weights.nil)
    return probability


def softmax_with_nil(logits: np.ndarray, flat: Candidates, *, nil: float) -> np.ndarray:
    """Probabilities of the candidates of each mention beside NIL."""
    highest = np.maximum(np.maximum.reduceat(logits, flat.starts), nil)
    powers = np.exp(logits - highest[flat.mention])
    totals = np.bincount(flat.mention, weights=powers, minlength=len(flat.text)) + np.exp(nil - highest)
    return powers / totals[flat.mention]


def is_best(flat: Candidates, probability: np.ndarray) -> np.ndarray:
    """Whether each candidate is the likeliest of its mention; the first of equals."""
    best = np.zeros(len(probability), dtype=bool)
    if len(best):
        best[first_of_equals(probability, np.maximum.reduceat(probability, flat.starts), flat.mention)] = True
    return best
