"""Naming what an image shows, and a gallery of one's own images."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import READER_TOKEN, connected_hub
from huggingface_hub import constants
from PIL import Image
from tiny import COLORS, NAMES, make_tiny_config, make_tiny_processor, write_entities

from modeling_mofi import MofiForPreTraining, MofiModel
from modeling_mofi.hub.publishing import publish_checkpoint
from modeling_mofi.search.calibration import Calibration, fit_calibration
from modeling_mofi.search.encoder import MofiEncoder
from modeling_mofi.search.entity_index import EntityIndex
from modeling_mofi.search.image_gallery import ImageGallery


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder with towers, processor, head of four entities and their names."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    MofiForPreTraining(make_tiny_config()).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    write_entities(folder / "entities.parquet")
    return folder


@pytest.fixture
def encoder(checkpoint):
    return MofiEncoder.from_pretrained(checkpoint, batch_size=3)


def pictures():
    return [Image.new("RGB", (20, 16), color) for color in COLORS]


def text_vectors(encoder):
    return encoder.encode_texts([f"{name}, a color" for name in NAMES])


def test_index_of_texts_finds_entities_by_their_own_text(checkpoint):
    index = EntityIndex.from_checkpoint(checkpoint, source="text")
    answers = index.search([f"{name}, a color" for name in NAMES], k=2)
    assert [answer.entities[0].entity_id for answer in answers] == ["Q0", "Q1", "Q2", "Q3"]
    assert answers[0].entities[0].similarity == pytest.approx(1, abs=1e-5)
    assert (answers[0].entities[0].name, answers[0].entities[0].description) == ("Red", "a color")
    assert len(answers[0].entities) == 2 and answers[0].is_known is None


def test_index_of_head_rows_finds_entities_by_their_row(checkpoint):
    index = EntityIndex.from_checkpoint(checkpoint, source="head")
    head = MofiForPreTraining.from_pretrained(checkpoint).entity_head.weight.detach()
    assert [answer.entities[0].entity_id for answer in index.search(head)] == ["Q0", "Q1", "Q2", "Q3"]


def test_both_sources_give_the_mean_of_the_two_cosines(checkpoint):
    images = pictures()
    head, text, both = (EntityIndex.from_checkpoint(checkpoint, source=name) for name in ("head", "text", None))
    cosines = [
        {entity.entity_id: entity.similarity for entity in index.search(images[:1], k=4)[0].entities}
        for index in (head, text, both)
    ]
    assert both.source == "both"
    for entity_id, mean in cosines[2].items():
        assert mean == pytest.approx((cosines[0][entity_id] + cosines[1][entity_id]) / 2, abs=1e-5)


def test_entity_is_added_by_writing_it_down(checkpoint):
    index = EntityIndex.from_checkpoint(checkpoint, source="text")
    index.add_entities(["flag"], [None], entity_ids=["mine:1"])
    assert len(index) == 5 and index.search(["flag"])[0].entities[0].entity_id == "mine:1"
    with pytest.raises(ValueError, match="has mine:1 already"):
        index.add_entities(["flag"], ["again"], entity_ids=["mine:1"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_index_comes_back_equal(checkpoint, tmp_path, dtype):
    index = EntityIndex.from_checkpoint(checkpoint, dtype=dtype)
    index.add_entities(["flag"], ["cloth"])
    index.calibration = Calibration(scale=20.0, threshold=0.3)
    index.save_pretrained(tmp_path)
    loaded = EntityIndex.from_pretrained(tmp_path)
    assert loaded.vectors.dtype == dtype and loaded.calibration == index.calibration
    assert loaded.search(pictures()) == index.search(pictures())


def test_index_without_its_own_entities_is_refused(checkpoint, encoder, tmp_path):
    EntityIndex.from_checkpoint(checkpoint).save_pretrained(tmp_path)
    pq.write_table(
        pa.table({name: list("abcd") for name in ("entity_id", "name", "description")}),
        tmp_path / "entity_index.parquet",
    )
    with pytest.raises(ValueError, match="come from different indexes"):
        EntityIndex.from_pretrained(tmp_path, encoder=encoder)
    (tmp_path / "entity_index.json").unlink()
    with pytest.raises(ValueError, match="it has no entity_index.json"):
        EntityIndex.from_pretrained(tmp_path, encoder=encoder)


def test_index_of_another_model_is_refused(checkpoint, tmp_path):
    EntityIndex.from_checkpoint(checkpoint).save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = MofiEncoder(MofiModel(make_tiny_config()), make_tiny_processor())
    with pytest.raises(ValueError, match=f"another model than this one.*pass an encoder of {checkpoint}"):
        EntityIndex.from_pretrained(tmp_path, encoder=other)


def test_model_in_half_precision_is_known_again(checkpoint, tmp_path):
    EntityIndex.from_checkpoint(checkpoint).save_pretrained(tmp_path)
    half = MofiEncoder(MofiModel.from_pretrained(checkpoint, dtype=torch.bfloat16), make_tiny_processor())
    assert len(EntityIndex.from_pretrained(tmp_path, encoder=half)) == 4


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with connected_hub(monkeypatch) as server:
        yield server


def test_published_index_comes_back_with_its_model(checkpoint, hub, tmp_path):
    publish_checkpoint(checkpoint, "me/mofi")
    index = EntityIndex.from_checkpoint(checkpoint, dtype=torch.float16)
    index.calibration = Calibration(scale=20.0, threshold=0.3)
    url = index.push_to_hub("me/index", checkpoint="me/mofi")
    assert url.startswith(f"{hub.url}/me/index/commit/")
    assert set(hub.files["me/index"]) - {".gitattributes"} == {
        *("entity_index.safetensors", "entity_index.parquet", "entity_index.json", "README.md")
    }
    loaded = EntityIndex.from_pretrained("me/index")
    assert loaded.encoder.name == "me/mofi" and loaded.vectors.dtype == torch.float16
    assert loaded.search(pictures()) == index.search(pictures())
    card = hub.files["me/index"]["README.md"].decode()
    assert "base_model: me/mofi" in card and "4 entities" in card


def test_index_of_a_published_checkpoint_knows_where_its_model_is(checkpoint, hub):
    publish_checkpoint(checkpoint, "me/mofi")
    EntityIndex.from_checkpoint("me/mofi").push_to_hub("me/index")
    assert json.loads(hub.files["me/index"]["entity_index.json"])["checkpoint"] == "me/mofi"


def test_index_of_a_model_that_only_is_here_is_not_published(checkpoint, hub):
    with pytest.raises(ValueError, match="which others do not have. Publish that model first"):
        EntityIndex.from_checkpoint(checkpoint).push_to_hub("me/index")
    assert not hub.files


def test_index_without_a_right_to_publish_stays_in_memory(checkpoint, hub):
    with pytest.raises(PermissionError, match="refused to write me/index.*the index is still in memory"):
        EntityIndex.from_checkpoint(checkpoint).push_to_hub("me/index", checkpoint="me/mofi", token=READER_TOKEN)


def test_names_that_lead_nowhere_are_explained(hub, monkeypatch):
    for name in ("me/nothing", "no/such/folder"):
        with pytest.raises(ValueError, match=f"{name} is no folder here, and no model on the Hub"):
            EntityIndex.from_pretrained(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="the Hub is out of reach"):
        EntityIndex.from_checkpoint("me/mofi")


def test_truncated_index_is_refused(checkpoint, encoder, tmp_path):
    EntityIndex.from_checkpoint(checkpoint).save_pretrained(tmp_path)
    path = tmp_path / "entity_index.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        EntityIndex.from_pretrained(tmp_path, encoder=encoder)


def test_entities_that_do_not_fit_the_head_are_refused(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    MofiForPreTraining.from_pretrained(checkpoint).save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    with pytest.raises(ValueError, match="has no entities.parquet"):
        EntityIndex.from_checkpoint(folder)
    write_entities(folder / "entities.parquet", entity_ids=("Q0", "Q1"))
    with pytest.raises(ValueError, match="has 4 head rows and 2 entities"):
        EntityIndex.from_checkpoint(folder)
    assert len(EntityIndex.from_checkpoint(folder, source="text")) == 2


def test_queries_of_another_kind_are_refused(checkpoint, encoder):
    index = EntityIndex.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="The queries are Image, str; give images or their paths, or texts"):
        index.search([pictures()[0], "Red"])
    with pytest.raises(ValueError, match=r"shape \(2, 3\); expected \[B, 16\]"):
        index.search(torch.ones(2, 3))
    with pytest.raises(ValueError, match="k is 0"):
        index.search(["Red"], k=0)


def labeled_cosines(num_images, *, seed):
    """Cosines of 20 entities drawn from a known softmax with scale 15 and threshold 0.3, and what was drawn."""
    generator = torch.Generator().manual_seed(seed)
    cosines = (0.15 + 0.12 * torch.randn(num_images, 20, generator=generator)).sort(dim=1, descending=True).values
    chances = torch.cat([cosines, torch.full((num_images, 1), 0.3)], dim=1).mul(15).softmax(dim=1)
    drawn = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    return cosines, drawn.where(drawn < 20, -1)


def test_calibration_finds_the_scale_and_threshold_behind_the_data():
    fitted = fit_calibration(*labeled_cosines(4000, seed=0))
    assert fitted.scale == pytest.approx(15, rel=0.15) and fitted.threshold == pytest.approx(0.3, abs=0.03)


def test_confidences_are_as_often_right_as_they_say():
    fitted = fit_calibration(*labeled_cosines(4000, seed=0))
    cosines, targets = labeled_cosines(4000, seed=1)
    confidences = fitted.confidences(cosines)[:, 0]
    for low in (0.1, 0.2, 0.3, 0.4):
        is_here = (confidences >= low) & (confidences < low + 0.1)
        if is_here.sum() > 100:
            is_right = (targets[is_here] == 0).float().mean()
            assert is_right == pytest.approx(confidences[is_here].mean().item(), abs=0.06)


def test_calibrated_index_knows_when_it_knows_nothing(encoder):
    entities = {"entity_id": ["a", "b"], "name": ["A", "B"], "description": ["", ""]}
    index = EntityIndex(torch.eye(16)[:2], entities, encoder)
    shown = torch.eye(16)[[0, 1, 0, 1, 5, 6, 7, 8]] + 0.02
    calibration = index.calibrate(shown, ["a", "b", "a", "b", None, "unheard of", None, None])
    known, unknown = index.search(torch.eye(16)[[0, 9]])
    assert known.is_known and not unknown.is_known and 0 < calibration.threshold < 1
    assert known.entities[0].confidence > 0.9 and unknown.known_confidence < 0.1
    assert math.isclose(sum(entity.confidence for entity in known.entities), known.known_confidence, rel_tol=1e-5)


def test_calibration_needs_images_of_known_entities():
    with pytest.raises(ValueError, match="2 images with 0 of known entities"):
        fit_calibration(torch.rand(2, 3), torch.tensor([-1, -1]))


def test_gallery_finds_images_by_image_and_by_text_and_lists_what_it_could_not_read(encoder, tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name, image in zip(NAMES, pictures(), strict=True):
        image.save(folder / f"{name}.png")
    pictures()[0].convert("CMYK").save(folder / "more" / "print.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    gallery = ImageGallery.from_folder(folder, encoder)
    assert len(gallery) == 5 and list(gallery.unreadable) == [str(folder / "broken.jpg")]
    found = gallery.search([pictures()[2]], k=2)
    assert found[0][0].path.endswith("Blue.png") and found[0][0].similarity == pytest.approx(1, abs=1e-5)
    assert len(gallery.search(["a Red flag", "Blue"], k=3)[1]) == 3
    gallery.save(tmp_path / "gallery.safetensors")
    loaded = ImageGallery.load(tmp_path / "gallery.safetensors", encoder)
    # Equal vectors at another address in memory may be summed in another order.
    torch.testing.assert_close(loaded.vectors, gallery.vectors, atol=0, rtol=0)
    assert [image.path for image in loaded.search([pictures()[2]], k=2)[0]] == [image.path for image in found[0]]


def test_folder_without_images_is_refused(encoder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no readable image"):
        ImageGallery.from_folder(tmp_path, encoder)


def test_encoder_gives_what_the_model_gives(checkpoint, encoder):
    inputs = make_tiny_processor()(images=pictures(), return_tensors="pt")
    with torch.no_grad():
        expected = MofiModel.from_pretrained(checkpoint)(**inputs).image_embeds
    torch.testing.assert_close(encoder.encode_images(pictures()), expected)
    assert encoder.encode_images([]).shape == (0, 16)


@pytest.fixture
def gallery(encoder, tmp_path):
    """Four images in a folder with brackets in its name."""
    folder = tmp_path / "a [1]"
    folder.mkdir()
    for name, image in zip(NAMES, pictures(), strict=True):
        image.save(folder / f"{name}.png")
    return ImageGallery.from_folder(folder, encoder)


def test_one_text_one_image_and_one_path_are_one_query_each(checkpoint, gallery):
    index, path = EntityIndex.from_checkpoint(checkpoint), Path(gallery.paths[0])
    for query in ("a Red flag", pictures()[0], path):
        assert len(index.search(query)) == len(gallery.search(query)) == 1
        torch.testing.assert_close(index.encoder.encode(query), index.encoder.encode([query]))
    assert gallery.search(path, k=1)[0][0].path == str(path)
    assert len(gallery.search([path, pictures()[1]])) == 2


def test_batches_do_not_change_a_gallery(gallery, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "batch_size", 3)
    again = ImageGallery.from_folder(tmp_path / "a [1]", encoder)
    assert again.paths == gallery.paths
    torch.testing.assert_close(again.vectors, gallery.vectors)
    (tmp_path / "a [1]" / "broken.png").write_bytes(b"")
    alone = ImageGallery.from_folder(tmp_path / "a [1]", encoder, num_workers=1)
    assert alone.paths == gallery.paths and list(alone.unreadable.values()) == ["empty image"]


def test_a_text_is_no_list_and_lists_are_of_equal_length(checkpoint, encoder):
    index = EntityIndex.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="2 names, 1 descriptions; give one of each"):
        index.add_entities(["a", "b"], ["only one"])
    with pytest.raises(ValueError, match="1 names, 2 entity_ids"):
        index.add_entities(["a"], [None], entity_ids=["x", "y"])
    with pytest.raises(ValueError, match="4 queries, 3 entity_ids"):
        index.calibrate(pictures(), ["Q0", "Q1", None])
    for arguments, name in ((("ab", ["", ""]), "names"), ((["x", "y"], "ab"), "descriptions")):
        with pytest.raises(ValueError, match=f"{name} is the text 'ab'; give a list"):
            index.add_entities(*arguments)
    with pytest.raises(ValueError, match="entity_ids is the text 'ab'"):
        index.add_entities(["x", "y"], [None, None], entity_ids="ab")
    with pytest.raises(ValueError, match="entity_ids is the text 'Q0'"):
        index.calibrate(pictures()[:2], "Q0")
    with pytest.raises(ValueError, match="texts is the text 'a flag'"):
        encoder.encode_texts("a flag")
    with pytest.raises(ValueError, match="paths is the text 'ab'"):
        ImageGallery(torch.eye(16)[:2], "ab", encoder)
    assert len(index) == 4 and index.calibration is None


def test_an_id_stands_for_one_entity(checkpoint, encoder):
    index = EntityIndex.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="1 entity ids occur more than once: mine:1"):
        index.add_entities(["a", "b"], [None, None], entity_ids=["mine:1", "mine:1"])
    with pytest.raises(ValueError, match="more than once: user:a"):
        index.add_entities(["a", "a"], ["a letter", "a note"])
    entities = {"entity_id": ["Q1", "Q1"], "name": ["A", "B"], "description": ["", ""]}
    with pytest.raises(ValueError, match="more than once: Q1"):
        EntityIndex(torch.eye(16)[:2], entities, encoder)
    assert len(index) == 4


def test_a_saved_index_is_found_from_another_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(checkpoint).parent)
    EntityIndex.from_checkpoint(Path(checkpoint).name).save_pretrained(tmp_path / "index")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(EntityIndex.from_pretrained(tmp_path / "index")) == 4
