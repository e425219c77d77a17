"""Order, decoding and drawing of training rows."""

import io
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny import COLORS, IMAGE_TYPE, picture, write_entities

from modeling_mofi.data.augmentation import Augmentation
from modeling_mofi.data.collator import (
    MofiDataCollator,
    PositionDataset,
    PositionSampler,
    normalize_pixels,
)
from modeling_mofi.data.entity_table import EntityTable
from modeling_mofi.data.images import UnreadableImage, read_image
from modeling_mofi.data.parquet_rows import ParquetRows, find_parquet_files


def positions(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_has_every_position_once_in_an_order_of_its_own():
    sampler = PositionSampler([5, 5, 3], seed=0)
    first, second = positions(sampler, 0), positions(sampler, 1)
    assert sorted(first) == list(range(13))
    assert sorted(second) == list(range(13, 26))
    assert [position - 13 for position in second] != first
    assert positions(PositionSampler([5, 5, 3], seed=0), 1) == second
    assert positions(PositionSampler([5, 5, 3], seed=1), 1) != second


def test_only_one_window_of_row_groups_is_in_use_at_a_time():
    order = positions(PositionSampler([10] * 8, seed=0, window_rows=20), 0)
    assert sorted(order) == list(range(80))
    groups = [{position // 10 for position in order[start : start + 20]} for start in range(0, 80, 20)]
    assert [len(window) for window in groups] == [2, 2, 2, 2]
    assert order[:20] != sorted(order[:20])


def test_rows_are_found_in_their_files_and_row_groups(tiny_i2e):
    rows = ParquetRows(find_parquet_files(str(tiny_i2e), split="train"), {"image_id": "id", "entity_labels": "labels"})
    assert rows.group_sizes == [6, 6, 6, 6]
    assert [rows[index]["id"] for index in (23, 0, 12, 11)] == ["image-023", "image-000", "image-012", "image-011"]
    assert rows[5] == {"id": "image-005", "labels": [1]}
    with pytest.raises(IndexError):
        rows[24]


def test_no_more_rows_are_kept_than_asked_for(tiny_i2e):
    files = find_parquet_files(str(tiny_i2e), split="train")
    rows = ParquetRows(files, {"image_id": "id"}, num_cached_rows=6)
    assert [row["id"] for row in rows] == [f"image-{index:03d}" for index in range(24)]
    assert sum(len(table) for table in rows._tables.values()) == 12


def damaged(content):
    return content[: len(content) // 2]


def encoded(image, format, **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty image"),
        (None, "no image"),
        (b"<html>404</html>", "markup instead of an image"),
        (damaged(picture(format="JPEG", size=(64, 64))), "truncated image"),
        (damaged(picture(size=(64, 64))), "corrupt|truncated"),
        ({"bytes": None, "path": "nowhere.jpg"}, "image file missing"),
    ],
)
def test_an_unreadable_image_says_why(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        read_image(content)


def test_a_decompression_bomb_is_refused_by_its_header():
    header = encoded(Image.new("1", (12000, 12000)), "PNG")
    with pytest.raises(UnreadableImage, match="too many pixels"):
        read_image(header)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    format = "TIFF" if mode == "CMYK" else "PNG"
    assert read_image(encoded(Image.new(mode, (5, 3)), format)).mode == "RGB"


def test_large_jpegs_are_shrunk_while_they_are_decoded():
    content = picture(size=(800, 640), format="JPEG")
    image = read_image(content, shrink_to=100)
    assert image.size == (200, 160)
    assert read_image(content).size == (800, 640)


def test_the_next_readable_image_stands_in_and_is_counted(caplog):
    rows = [{"image": {"bytes": b"x", "path": None}, "image_id": f"bad-{i}", "alt_text": "no"} for i in range(2)]
    rows.append({"image": {"bytes": picture(), "path": None}, "image_id": "good", "alt_text": "yes"})
    with caplog.at_level(logging.WARNING):
        row = PositionDataset(rows, min_side=16)[3]
    assert (row["image_id"], row["alt_text"], row["num_unreadable"], row["position"]) == ("good", "yes", 2, 3)
    assert "image bad-0 is left out" in caplog.text


def test_a_row_reads_image_files_beside_its_parquet_file_and_nowhere_else(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("data/inside.png", "secret.png"):
        (tmp_path / name).write_bytes(picture())
    paths = ["inside.png", "../secret.png", str(tmp_path / "secret.png"), str(tmp_path / "data" / "inside.png")]
    images = pa.array([{"bytes": None, "path": path} for path in paths], IMAGE_TYPE)
    pq.write_table(pa.table({"image": images}), tmp_path / "data" / "rows.parquet")
    dataset = PositionDataset(ParquetRows([str(tmp_path / "data" / "rows.parquet")], {"image": "image"}), min_side=16)
    assert [dataset[place]["num_unreadable"] for place in range(4)] == [0, 2, 1, 0]
    assert PositionDataset([{"image": str(tmp_path / "secret.png")}, {"image": picture()}], min_side=16)[0][
        "num_unreadable"
    ]


def test_decoded_images_are_kept_small():
    dataset = PositionDataset([{"image": picture(size=(100, 50))}], min_side=20, keep_decoded=True)
    assert dataset[0]["image"].size == (40, 20)
    assert dataset[0]["image"] is dataset[1]["image"]


@pytest.fixture
def entities(tmp_path):
    write_entities(tmp_path / "entities.parquet")
    return EntityTable(tmp_path / "entities.parquet")


def make_rows(num_rows, *, first=0, **changes):
    return [
        {
            "image": Image.new("RGB", (20, 18), COLORS[row % 4]),
            "alt_text": "a picture",
            "entity_labels": [0, 1],
            "position": first + row,
            **changes,
        }
        for row in range(num_rows)
    ]


def make_collator(processor, entities, **settings):
    settings = {"text_proportions": {"alt_text": 1}, "image_size": (16, 16), **settings}
    return MofiDataCollator(processor, entities=entities, **settings)


def test_a_view_is_the_processors_image_if_nothing_is_augmented(tiny_processor, entities):
    image = Image.open(io.BytesIO(picture(size=(16, 16)))).convert("RGB")
    batch = make_collator(tiny_processor, entities)(make_rows(1, image=image))
    expected = tiny_processor.image_processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected, atol=1e-6, rtol=0)


def test_bytes_become_the_normalized_view_wherever_that_is_done(tiny_processor, entities):
    settings = {"augmentation": Augmentation(min_crop_area=0.3, color_jitter=0.4, erase_probability=0.5)}
    batch = make_collator(tiny_processor, entities, **settings)(make_rows(5))
    as_bytes = make_collator(tiny_processor, entities, normalizes=False, **settings)(make_rows(5))
    assert as_bytes["pixel_values"].dtype == torch.uint8
    assert torch.equal(
        normalize_pixels(as_bytes.pop("pixel_values"), tiny_processor.image_processor), batch.pop("pixel_values")
    )
    assert all(torch.equal(torch.as_tensor(as_bytes[name]), torch.as_tensor(batch[name])) for name in batch)


def test_a_sample_is_a_function_of_seed_and_position(tiny_processor, entities):
    augmentation = Augmentation(min_crop_area=0.3, max_rotation=20, flip_probability=0.5, erase_probability=0.5)
    settings = {"augmentation": augmentation, "text_proportions": {"alt_text": 1, "name": 1}, "num_patches": 4}
    collate = make_collator(tiny_processor, entities, **settings)
    whole, alone = collate(make_rows(6, first=9)), collate(make_rows(6, first=9)[4:5])
    for name in ("pixel_values", "entity_labels", "patch_noise"):
        assert torch.equal(whole[name][4:5], alone[name])
    length = alone["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][4:5, :length], alone["input_ids"])
    other = make_collator(tiny_processor, entities, **settings, seed=1)(make_rows(6, first=9))
    assert not torch.equal(whole["pixel_values"], other["pixel_values"])


def test_texts_are_drawn_in_their_proportions(tiny_processor, entities):
    proportions = {"alt_text": 0.5, "name": 0.3, "name_and_description": 0.2}
    collate = make_collator(tiny_processor, entities, text_proportions=proportions)
    batch = collate(make_rows(2000, entity_labels=[2]))
    texts = tiny_processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    shares = [texts.count(text) / 2000 for text in ("a picture", "Blue", "Blue , a color")]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_each_of_an_images_entities_is_drawn(tiny_processor, entities):
    labels = make_collator(tiny_processor, entities)(make_rows(400, entity_labels=[0, 3]))["entity_labels"]
    assert set(labels.tolist()) == {0, 3}
    assert (labels == 3).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_an_image_without_entity_has_label_minus_one_and_its_alt_text(tiny_processor, entities):
    collate = make_collator(tiny_processor, entities, text_proportions={"alt_text": 0, "name": 1})
    batch = collate(make_rows(1, entity_labels=[]))
    assert batch["entity_labels"].tolist() == [-1]
    assert tiny_processor.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "a picture"


def test_an_image_counts_as_much_as_its_drawn_entity_fits_it(tiny_processor, entities):
    similarities = [{"similarity": 0.25}, {"similarity": 0.5}, {"similarity": -0.1}]
    collate = make_collator(tiny_processor, entities, with_weights=True)
    batch = collate(make_rows(40, entity_labels=[0, 3, 2], entities=similarities))
    expected = {0: 0.25, 3: 0.5, 2: 0.0}
    assert batch["entity_weights"].tolist() == [expected[label] for label in batch["entity_labels"].tolist()]
    assert collate(make_rows(1, entity_labels=[], entities=[]))["entity_weights"].tolist() == [0]


def test_an_entity_without_similarity_is_refused_where_it_should_count(tiny_processor, entities):
    collate = make_collator(tiny_processor, entities, with_weights=True)
    with pytest.raises(ValueError, match="image 7 has an entity without similarity; .* --entity_weighting none"):
        collate(make_rows(1, first=7, entity_labels=[1], entities=[{"similarity": None}]))


def test_without_texts_there_are_no_tokens(tiny_processor, entities):
    batch = make_collator(tiny_processor, entities, text_proportions=None)(make_rows(2))
    assert set(batch) == {"pixel_values", "entity_labels", "num_unreadable"}


@pytest.mark.parametrize("proportions", [{"caption": 1}, {"alt_text": -1, "name": 2}, {"alt_text": 0}])
def test_impossible_proportions_are_refused(tiny_processor, proportions):
    with pytest.raises(ValueError, match="must give alt_text, name, name_and_description shares of 0 or more"):
        make_collator(tiny_processor, None, text_proportions=proportions)


def test_a_file_without_a_wanted_column_is_refused(tmp_path):
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has no column 'alt_text'; its columns are image"):
        ParquetRows([str(tmp_path / "a.parquet")], {"alt_text": "alt_text"})
    assert np.isfinite(len(ParquetRows([str(tmp_path / "a.parquet")], {"image": "image"})))
