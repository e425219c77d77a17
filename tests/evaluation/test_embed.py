import logging

import pytest
import torch

from evaluation import embed as embed_module
from evaluation.benchmark import Embedder
from evaluation.encoders import PixelEncoder, load_encoder
from evaluation.labeled_images import open_images
from tests.evaluation.conftest import COLORS, picture


class CountingEncoder(PixelEncoder):
    """Counts the images it embeds, and may fail after some."""

    embedded = 0
    fail_after = None

    def embed_images(self, inputs):
        if self.fail_after is not None and self.embedded >= self.fail_after:
            raise KeyboardInterrupt
        self.embedded += len(inputs["pixel_values"])
        return super().embed_images(inputs)


@pytest.fixture
def counting(tmp_path):
    return Embedder(CountingEncoder(torch.device("cpu")), tmp_path / "embeddings", batch_size=4)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of five rows, so that twelve rows make three."""
    monkeypatch.setattr(embed_module, "ROWS_PER_PART", 5)


def test_images_are_embedded_once(counting, colors_file):
    first = counting(open_images(colors_file))
    second = counting(open_images(colors_file))
    assert counting.encoder.embedded == 12
    assert torch.equal(first.features, second.features)


def test_another_data_set_is_embedded_anew(counting, colors_file, write_rows):
    counting(open_images(colors_file))
    counting(open_images(colors_file, limit=3))
    assert counting.encoder.embedded == 15


def test_an_edited_file_is_embedded_anew(counting, write_rows):
    red = counting(open_images(write_rows(image=[picture(COLORS["red"])])))
    blue = counting(open_images(write_rows(image=[picture(COLORS["blue"])])))
    assert not torch.equal(red.features, blue.features)


def test_another_preprocessing_is_embedded_anew(clip_folder, colors_file, tmp_path):
    images = open_images(colors_file)
    own, release = (
        Embedder(load_encoder(clip_folder, preprocessing=preprocessing), tmp_path / "embeddings")(images)
        for preprocessing in ("model", "release")
    )
    assert not torch.equal(own.features, release.features)


def test_an_interrupted_run_continues_after_its_last_part(counting, colors_file, small_parts, pixels):
    images = open_images(colors_file)
    counting.encoder.fail_after = 6
    with pytest.raises(KeyboardInterrupt):
        counting(images)
    counting.encoder.fail_after, counting.encoder.embedded = None, 0
    resumed = counting(images)
    assert counting.encoder.embedded == 7  # Five of the twelve were kept.
    assert torch.equal(resumed.features, pixels(images).features)


def test_a_full_disk_names_the_path_and_the_next_run_embeds_it(counting, colors_file, small_parts, full_disk):
    images = open_images(colors_file)
    with full_disk(2000), pytest.raises(OSError, match=r"cannot write .*rows-000000000-000000005\.safetensors"):
        counting(images)
    assert not list(counting.cache_dir.rglob("*rows-*"))
    assert len(counting(images).rows) == 12


def test_a_half_written_part_is_not_read(counting, colors_file, small_parts):
    images = open_images(colors_file)
    expected = counting(images).features
    (part,) = counting.cache_dir.glob("*/rows-000000005-*.safetensors")
    part.rename(part.with_name(part.name + ".0.tmp"))
    assert torch.equal(counting(images).features, expected)
    assert counting.encoder.embedded == 17


@pytest.mark.parametrize("length", [0, 5, 200])
def test_a_damaged_part_is_made_again(counting, colors_file, small_parts, length, caplog):
    images = open_images(colors_file)
    expected = counting(images).features
    (part,) = counting.cache_dir.glob("*/rows-000000005-*.safetensors")
    part.write_bytes(part.read_bytes()[:length])
    assert torch.equal(counting(images).features, expected)
    assert counting.encoder.embedded == 17 and "is damaged" in caplog.text


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_size_and_workers_do_not_change_the_rows(colors_file, tmp_path, pixels, batch_size, num_workers):
    images = open_images(colors_file)
    embedder = Embedder(pixels.encoder, tmp_path / "other", batch_size, num_workers)
    assert torch.equal(embedder(images).features, pixels(images).features)


def test_an_unreadable_image_is_named_and_shifts_no_row(pixels, write_rows, caplog):
    files = [picture(COLORS["red"]), b"broken", picture(COLORS["blue"]), b""]
    images = open_images(write_rows(image=files, image_id=["a", "b", "c", "d"]))
    with caplog.at_level(logging.WARNING):
        embedded = pixels(images)
    assert embedded.rows == [0, 2]
    assert list(embedded.unreadable) == ["b", "d"]
    assert embedded.features[1].argmax() % 3 == 2  # Blue.
    assert "2 images cannot be read: b (unknown image format" in caplog.text


def test_a_batch_of_unreadable_images_is_passed_over(pixels, write_rows):
    images = open_images(write_rows(image=[b"broken"] * 5 + [picture(COLORS["red"])]))
    assert pixels(images).rows == [5]


def test_no_readable_image_is_an_error(pixels, write_rows):
    with pytest.raises(ValueError, match="None of the 2 images"):
        pixels(open_images(write_rows(image=[b"broken"] * 2)))


def test_equal_files_are_counted(pixels, write_rows):
    files = [picture(COLORS["red"]), picture(COLORS["blue"]), picture(COLORS["red"])]
    assert pixels(open_images(write_rows(image=files))).num_duplicates == 1


def test_nan_embeddings_name_their_rows(counting, colors_file, monkeypatch):
    def embed_images(inputs):
        return inputs["pixel_values"].float().index_fill(0, torch.tensor([1]), torch.nan)

    monkeypatch.setattr(counting.encoder, "embed_images", embed_images)
    with pytest.raises(ValueError, match="3 of 12 embeddings are NaN .* first rows red-1, green-5, blue-9"):
        counting(open_images(colors_file))


def test_embeddings_have_unit_length(pixels, colors_file):
    lengths = pixels(open_images(colors_file)).image_embeds.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(12))
