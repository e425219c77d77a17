import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import write_entities

from modeling_mofi.data.entity_table import EntityTable


def write(path, **columns):
    pq.write_table(
        pa.table({"entity_id": ["Q1", "Q2"], "name": ["a", "b"], "description": ["", None], **columns}), path
    )
    return path


def test_columns_come_in_the_order_of_the_labels(tmp_path):
    table = EntityTable(write(tmp_path / "a.parquet", entity_label=[0, 1], count=[7, 9]))
    assert table.to_lists() == {"entity_id": ["Q1", "Q2"], "name": ["a", "b"], "description": ["", None]}
    assert table.counts.tolist() == [7, 9]


def test_counts_are_zero_where_the_file_has_none(tmp_path):
    assert EntityTable(write(tmp_path / "a.parquet")).counts.tolist() == [0, 0]


@pytest.mark.parametrize("labels", [[1, 0], [1, 2], [0, None]])
def test_rows_in_another_order_are_refused(labels, tmp_path):
    with pytest.raises(ValueError, match="row i must hold entity_label i"):
        EntityTable(write(tmp_path / "a.parquet", entity_label=labels))


def test_a_missing_column_is_named(tmp_path):
    write_entities(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns("name"), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has no column 'name'; its columns are entity_label, entity_id"):
        EntityTable(tmp_path / "a.parquet")
