"""Looking at a build, with and without the stages behind it."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from i2e_browser import I2EBrowser
from tiny import NAMES, picture, write_i2e


def write_stages(folder):
    """Scored rows of a build: two candidates in row 0, of which one was kept; a rare entity in row 1."""
    rows = [
        {
            "row": row,
            "image": {"bytes": picture(), "path": None},
            "alt_text": f"Red flag {row}",
            "mentions": [{"text": "Red", "start": 0, "end": 3}],
            "candidates": [
                {"mention": 0, "entity_id": "Q0", "similarity": 0.1, "prior": 0.75, "probability": 0.25},
                {"mention": 0, "entity_id": "Q1", "similarity": 0.3, "prior": 0.25, "probability": 0.5},
            ],
        }
        for row in range(2)
    ]
    kept = {"score_entities": rows}
    kept["filter_entities"] = [{"row": row, "entities": [{"entity_id": "Q1"}]} for row in range(2)]
    kept["label_entities"] = [{"row": 0, "entities": [{"entity_id": "Q1"}]}]
    for stage, content in kept.items():
        (folder / "stages" / stage).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(content), folder / "stages" / stage / "000000.parquet")


def test_published_rows_are_shown_across_shards(tmp_path):
    browser = I2EBrowser(write_i2e(tmp_path / "i2e"))
    assert len(browser) == 24
    assert [browser[number].entities[0].name for number in (0, 1, 23)] == [NAMES[0], NAMES[1], NAMES[3]]
    assert browser[13].alt_text == f"a {NAMES[1]} flag number 13" and browser[13].image[:4] == b"\x89PNG"


def test_dropped_entities_are_shown_with_reasons(tmp_path):
    folder = write_i2e(tmp_path / "i2e")
    write_stages(folder)
    browser = I2EBrowser(folder)
    assert len(browser) == 2 and browser[0].mentions == [(0, 3)]
    assert [(entity.name, entity.reason) for entity in browser[0].entities] == [
        ("Green", ""),
        ("Red", "not in the image"),
    ]
    assert [entity.reason for entity in browser[1].entities] == ["too few images", "not in the image"]
    assert [(entity.prior, entity.probability) for entity in browser[0].entities] == [(0.25, 0.5), (0.75, 0.25)]


def test_the_knowledge_base_is_that_of_the_builds_settings(tmp_path):
    folder = write_i2e(tmp_path / "i2e")
    assert I2EBrowser(folder).knowledge_base == ""
    (folder / "stages").mkdir()
    (folder / "stages" / "settings.json").write_text('{"knowledge_base": "me/kb@1"}')
    assert I2EBrowser(folder).knowledge_base == "me/kb@1"


def test_texts_are_found_whatever_their_case(tmp_path):
    browser = I2EBrowser(write_i2e(tmp_path / "i2e"))
    assert browser.find("a red FLAG") == [0, 4, 8, 12, 16, 20] and browser.find("cathedral") == []
    assert browser.find("flag", limit=3) == [0, 1, 2]


def test_folder_that_is_no_build_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no I2E build"):
        I2EBrowser(tmp_path)


def test_row_outside_is_refused(tmp_path):
    with pytest.raises(IndexError, match=r"Row 24 is outside \[0, 24\)"):
        I2EBrowser(write_i2e(tmp_path / "i2e"))[24]


def test_users_who_read_at_once_get_their_own_rows(tmp_path):
    browser = I2EBrowser(write_i2e(tmp_path / "i2e"))
    numbers = list(range(24)) * 20
    alone = [browser[number] for number in range(24)]
    with ThreadPoolExecutor(8) as users:
        together = list(users.map(browser.__getitem__, numbers))
        found = list(users.map(browser.find, ["flag"] * 20))
    assert together == [alone[number] for number in numbers]
    assert found == [browser.find("flag")] * 20
