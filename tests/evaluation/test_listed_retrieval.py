"""Ranks and scores of queries whose relevant images are listed."""

import numpy as np
import pytest
import torch

from evaluation.listed_retrieval import listed_scores, relevant_ranks, revisited_scores


def ranks(*values):
    return np.array(values)


def official_average_precision(ranks):
    """The loop of the official evaluation of Oxford and Paris, on ranks from 0."""
    total = 0.0
    for found, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else found / rank
        total += (before + (found + 1) / (rank + 1)) / (2 * len(ranks))
    return total


def test_scores_of_a_ranking_worked_out_by_hand():
    # Relevant at 1 and 3 of 2: precisions 1/1 and 2/3; one of the first two is right.
    assert listed_scores(ranks(1, 3)) == {"mAP": pytest.approx((1 + 2 / 3) / 2), "R@1": 1.0, "mMP@5": 1 / 2}
    scores = listed_scores(ranks(2, 3, 4, 5, 6, 7))
    assert (scores["R@1"], scores["mMP@5"]) == (0.0, 4 / 5)


@pytest.mark.parametrize("found", [(1,), (2,), (1, 2, 3), (3, 4, 10), (2, 5, 6, 40)])
def test_revisited_scores_are_those_of_the_official_loop(found):
    scores = revisited_scores(ranks(*found))
    assert scores["mAP"] == pytest.approx(official_average_precision(ranks(*found) - 1))
    for k in (1, 5, 10):
        first = min(k, max(found))
        assert scores[f"mP@{k}"] == sum(rank <= first for rank in found) / first


@pytest.mark.parametrize("scores_per_chunk", [1, 2**20])
def test_what_is_left_out_takes_no_rank(scores_per_chunk):
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    relevant = [np.array([2, 3]), np.array([0]), np.array([], dtype=int)]
    left_out = [np.array([0]), np.array([3, 0]), np.array([], dtype=int)]
    found = relevant_ranks(query, gallery, relevant, left_out, scores_per_chunk=scores_per_chunk)
    assert [row.tolist() for row in found] == [[2, 3], [], []]
