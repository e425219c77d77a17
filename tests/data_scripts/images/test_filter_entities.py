import pytest

from data_scripts.images.filter_entities import SimilarityHistogram, Thresholds, choose_entities, filter_entities


def candidate(entity_id, probability, similarity, mention=0):
    return {"mention": mention, "entity_id": entity_id, "probability": probability, "similarity": similarity}


CANDIDATES = [candidate("Q3", 0.6, 0.10), candidate("Q2", 0.3, 0.30), candidate("Q9", 0.1, 0.31)]


@pytest.mark.parametrize(("mode", "entity_id"), [("text", "Q3"), ("image", "Q9"), ("both", "Q2")])
def test_text_image_or_both_choose(mode, entity_id):
    assert [entity["entity_id"] for entity in choose_entities(CANDIDATES, disambiguation=mode)] == [entity_id]


def test_several_mentions_give_several_entities_each_once_most_similar_first():
    candidates = [candidate("Q1", 1, 0.2), candidate("Q4", 1, 0.3, mention=1), candidate("Q1", 1, 0.2, mention=2)]
    entities = choose_entities(candidates, disambiguation="text")
    assert entities == [{"entity_id": "Q4", "similarity": 0.3}, {"entity_id": "Q1", "similarity": 0.2}]


def test_equal_candidates_are_decided_the_same_way_in_any_order():
    tied = [candidate("Q1", 0.5, 0.2), candidate("Q2", 0.5, 0.2)]
    assert choose_entities(tied, disambiguation="both") == choose_entities(tied[::-1], disambiguation="both")


def test_entities_below_the_threshold_go_and_so_do_rows_without_any():
    batch = {"candidates": [[candidate("Q1", 1, 0.2), candidate("Q4", 1, 0.3, mention=1)], [candidate("Q1", 1, 0.1)]]}
    batch = filter_entities(batch, disambiguation="text", thresholds=Thresholds(0.25))
    assert [[entity["entity_id"] for entity in entities] for entities in batch["entities"]] == [["Q4"], []]
    assert batch["drop_reason"] == [None, "similarity below threshold"]


def test_types_have_their_own_thresholds():
    batch = {"candidates": [[candidate("Q1", 1, 0.2)], [candidate("Q4", 1, 0.2)]]}
    types = {"Q1": ["Q5", "Q7"], "Q4": []}
    thresholds = Thresholds(0.1, {"Q5": 0.3})
    batch = filter_entities(batch, disambiguation="text", thresholds=thresholds, types_of=types.__getitem__)
    assert [bool(entities) for entities in batch["entities"]] == [False, True]


def test_a_fraction_becomes_the_threshold_that_keeps_it():
    histogram = SimilarityHistogram()
    values = [i / 1000 for i in range(1000)]
    histogram.add(values)
    threshold = histogram.threshold_for(0.3)
    assert 300 <= sum(value >= threshold for value in values) <= 301
    assert histogram.fraction_kept(threshold) == pytest.approx(0.3, abs=0.002)


def test_a_fraction_of_one_keeps_everything():
    histogram = SimilarityHistogram()
    histogram.add([-0.99991, 0.5, 1.0])
    assert histogram.threshold_for(1.0) <= -0.99991
