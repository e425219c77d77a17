from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_scripts.arguments import LabelArguments
from data_scripts.engine.engines import Engine, run_steps
from data_scripts.knowledge_base.store import open_knowledge_base
from data_scripts.labels.label_shards import LabelFolders, label_shards
from data_scripts.schema import Shard, filtered_schema


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
def label(knowledge_base, tmp_path):
    """Labels shards; returns the summary and the labelled rows."""

    def run(tables, *, name="labels", order=1, **options):
        filtered, folder = tmp_path / name / "filtered", tmp_path / name / "labels"
        filtered.mkdir(parents=True)
        for index, table in enumerate(tables):
            pq.write_table(table, filtered / f"{index:06d}.parquet")
        shards = [Shard(index, "test", "") for index in range(len(tables))]
        folders = LabelFolders(filtered, folder / "build", folder / "rows")
        kb = open_knowledge_base(knowledge_base)
        steps = label_shards(shards, folders=folders, options=LabelArguments(**options), kb=kb)
        summary = run_steps(reordered(steps, order), engine=Engine())
        return summary, [
            row for path in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(path).to_pylist()
        ]

    return run


def reordered(steps, order):
    """The same steps, their shards in another order."""
    while True:
        try:
            job, groups = next(steps)
        except StopIteration as end:
            return end.value
        yield job, groups[::order]


def dropped(summary):
    return summary.totals.stages["label_entities"]["dropped"]


def test_rare_entities_go_and_the_rest_are_numbered_by_their_ids(label):
    shards = [shard([("a", ["Q2", "Q1"]), ("b", ["Q2"])]), shard([("c", ["Q1"]), ("d", ["Q4"])])]
    summary, rows = label(shards, min_images_per_entity=2)
    assert [row["entity_labels"] for row in rows] == [[1, 0], [1], [0]]
    assert dropped(summary) == {"entity too rare": 1}
    assert summary.entities.select(["entity_label", "entity_id", "name", "count"]).to_pylist() == [
        {"entity_label": 0, "entity_id": "Q1", "name": "octopus", "count": 2},
        {"entity_label": 1, "entity_id": "Q2", "name": "turkey", "count": 2},
    ]


def test_numbers_do_not_depend_on_the_order_of_the_shards(label):
    shards = [shard([("a", ["Q2"]), ("b", ["Q4"])]), shard([("c", ["Q1"])])]
    forward, _ = label(shards, min_images_per_entity=1)
    backward, _ = label(shards[::-1], name="backward", min_images_per_entity=1)
    assert forward.entities.equals(backward.entities)


def test_the_cap_keeps_so_many_images_and_spreads_them(label):
    shards = [shard([(f"{part}-{i}", ["Q1"]) for i in range(500)]) for part in range(4)]
    summary, rows = label(shards, min_images_per_entity=1, max_images_per_entity=300)
    assert summary.entities["count"].to_pylist() == [300]
    assert dropped(summary) == {"over the cap": 1700}
    # A first-come cap would fill up in the first shard, whose last fifth has 100 rows.
    assert 40 <= sum(row["row"] >= 400 for row in rows) <= 80


def test_shards_may_be_labelled_in_any_order(label):
    tables = [shard([(f"{part}-{i}", ["Q1", f"Q{2 + i % 3}"]) for i in range(200)]) for part in range(4)]
    options = {"min_images_per_entity": 5, "max_images_per_entity": 100, "validation_fraction": 0.2}
    forward, rows = label(tables, **options)
    backward, again = label(tables, name="again", order=-1, **options)
    assert rows == again
    assert forward.entities.equals(backward.entities)
    assert (forward.rows, dropped(forward)) == (backward.rows, dropped(backward))


@pytest.mark.parametrize("max_images", [1, 3, 30, 300])
def test_no_entity_has_more_images_than_the_cap_and_counts_are_those_of_the_rows(label, max_images):
    tables = [shard([(f"{part}-{i}", ["Q1", f"Q{2 + i % 7}"]) for i in range(300)]) for part in range(3)]
    summary, rows = label(tables, min_images_per_entity=1, max_images_per_entity=max_images)
    counted = Counter(label for row in rows for label in row["entity_labels"])
    assert summary.entities["count"].to_pylist() == [counted[label] for label in range(8)]
    assert [counted[label] for label in range(8)] == [min(max_images, images) for images in (900, *[129] * 6, 126)]
    assert summary.rows["train"] == len(rows)


def test_images_of_one_id_stay_together_or_go_together(label):
    tables = [shard([("same", ["Q1"])] * 9 + [(f"{i}", ["Q1"]) for i in range(9)])]
    summary, rows = label(tables, min_images_per_entity=1, max_images_per_entity=8)
    assert {row["row"] for row in rows} <= set(range(9, 18))
    assert summary.entities["count"].to_pylist() == [len(rows)]


def test_an_image_stays_or_goes_whatever_becomes_of_other_entities(label):
    rows = [(f"{i}", ["Q2"]) for i in range(400)]
    _, alone = label([shard(rows)], min_images_per_entity=1, max_images_per_entity=50)
    others = shard([(f"other-{i}", ["Q1"]) for i in range(400)])
    _, beside = label([shard(rows), others], name="beside", min_images_per_entity=1, max_images_per_entity=50)
    assert [row["row"] for row in alone] == [row["row"] for row in beside if row["entity_labels"] == [1]]


def test_entities_that_the_split_would_leave_too_few_images_of_stay_in_train(label):
    rows = [(f"a{i}", ["Q1"]) for i in range(400)] + [(f"b{i}", ["Q2"]) for i in range(7)]
    tables = [shard(rows[::2]), shard(rows[1::2]), shard([(f"c{i}", ["Q1", "Q2"]) for i in range(2)])]
    summary, labelled = label(tables, min_images_per_entity=5, validation_fraction=0.5)
    in_train = [row["entity_labels"] for row in labelled if row["split"] == "train"]
    assert (in_train.count([1]), in_train.count([0, 1])) == (7, 2)
    assert in_train.count([0]) >= 5
    assert 150 < summary.rows["validation"] < 250
    assert sum(summary.rows.values()) == 409


def test_without_an_entity_that_has_enough_images_there_is_nothing(label):
    summary, _ = label([shard([("a", ["Q1"]), ("b", ["Q2"])])], min_images_per_entity=2)
    assert (len(summary.entities), summary.rows) == (0, {"train": 0, "validation": 0})


def test_ids_longer_than_those_of_all_entities_are_not_taken_for_them(label):
    tables = [shard([("a", ["Q1"]), ("b", ["Q1"]), ("c", ["Q10"])])]
    summary, rows = label(tables, min_images_per_entity=2)
    assert [row["row"] for row in rows] == [0, 1]
    assert dropped(summary) == {"entity too rare": 1}
