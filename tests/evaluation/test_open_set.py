"""Answers with a name or with nothing, at every threshold."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.open_set import open_set_curve, open_set_scores, threshold_at


SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.85, 0.5, 0.4, 0.1])
RIGHT = np.array([1, 0, 1, 1, 0, 0, 0, 0], dtype=bool)
NIL = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)


def test_the_area_is_that_of_scikit_learn_with_ties():
    area = open_set_scores(SCORES, RIGHT, NIL)["AUROC"]
    assert np.nanmean(area) == pytest.approx(roc_auc_score(~NIL, SCORES))
    assert np.isnan(area).tolist() == NIL.tolist()


def test_rates_worked_out_by_hand():
    nil = np.sort(SCORES[NIL])
    # At most 1% of four images is none: names above 0.85 only. A quarter is one: names above 0.5.
    assert (threshold_at(nil, 0.01), threshold_at(nil, 0.25), threshold_at(nil, 1.0)) == (0.85, 0.5, -np.inf)
    assert np.nanmean(open_set_scores(SCORES, RIGHT, NIL)["DIR at 1% FPIR"]) == 1 / 4
    curve = dict(open_set_curve(SCORES, RIGHT, NIL))
    assert (curve[0.0], curve[0.25], curve[0.5], curve[1.0]) == (1 / 4, 2 / 4, 2 / 4, 3 / 4)
