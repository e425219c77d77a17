import pyarrow as pa
import pytest

from data_scripts.knowledge_base import open_knowledge_base
from data_scripts.label_entities import LabelOptions, label_entities
from data_scripts.schema import filtered_schema


def shard(rows):
    """Rows (image_id, entity ids) as a filtered shard."""
    return pa.Table.from_pylist(
        [
            {"image_id": name, "row": row, "entities": [{"entity_id": e, "similarity": 0.5} for e in entity_ids]}
            for row, (name, entity_ids) in enumerate(rows)
        ],
        schema=filtered_schema(),
    )


@pytest.fixture
def label(knowledge_base):
    """Labels shards; returns the summary and the labelled rows."""

    def run(shards, **options):
        written = {}
        summary = label_entities(
            lambda: iter(shards),
            kb=open_knowledge_base(knowledge_base),
            options=LabelOptions(**options),
            write=written.__setitem__,
        )
        return summary, [row for position in sorted(written) for row in written[position].to_pylist()]

    return run


def test_rare_entities_go_and_the_rest_are_numbered_by_their_ids(label):
    shards = [shard([("a", ["Q2", "Q1"]), ("b", ["Q2"])]), shard([("c", ["Q1"]), ("d", ["Q4"])])]
    summary, rows = label(shards, min_images=2)
    assert [row["entity_labels"] for row in rows] == [[1, 0], [1], [0]]
    assert summary.dropped == {"entity too rare": 1}
    assert summary.entities.select(["entity_label", "entity_id", "name", "count"]).to_pylist() == [
        {"entity_label": 0, "entity_id": "Q1", "name": "octopus", "count": 2},
        {"entity_label": 1, "entity_id": "Q2", "name": "turkey", "count": 2},
    ]


def test_numbers_do_not_depend_on_the_order_of_the_shards(label):
    shards = [shard([("a", ["Q2"]), ("b", ["Q4"])]), shard([("c", ["Q1"])])]
    forward, _ = label(shards, min_images=1)
    backward, _ = label(shards[::-1], min_images=1)
    assert forward.entities.equals(backward.entities)


def test_the_cap_keeps_so_many_images_and_spreads_them(label):
    shards = [shard([(f"{part}-{i}", ["Q1"]) for i in range(500)]) for part in range(4)]
    summary, rows = label(shards, min_images=1, max_images=300)
    assert summary.entities["count"].to_pylist() == [300]
    assert summary.dropped == {"over the cap": 1700}
    # A first-come cap would fill up in the first shard, whose last fifth has 100 rows.
    assert 40 <= sum(row["row"] >= 400 for row in rows) <= 80


def test_validation_leaves_enough_images_of_every_entity_in_train(label):
    rows = [(f"a{i}", ["Q1"]) for i in range(400)] + [(f"b{i}", ["Q2"]) for i in range(7)]
    summary, labelled = label([shard(rows)], min_images=5, validation_fraction=0.5)
    in_train = [row["entity_labels"] for row in labelled if row["split"] == "train"]
    assert in_train.count([1]) >= 5
    assert 150 < summary.rows["validation"] < 250
    assert sum(summary.rows.values()) == 407
