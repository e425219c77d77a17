"""The demo in a headless Chromium, tab by tab, on a tiny checkpoint and build; and what it refuses."""

import json
import re
import shutil
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import connected_hub
from huggingface_hub import constants
from odd_images import KEPT, REFUSED
from PIL import Image
from tiny import COLORS, make_tiny_config, make_tiny_processor, picture, write_entities, write_i2e

from modeling_mofi import MofiForPreTraining
from modeling_mofi.hub.publishing import publish_checkpoint


gr = pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo that knows four colors and shows 24 images."""
    from app import Demo

    root = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    MofiForPreTraining(make_tiny_config()).save_pretrained(root / "mofi")
    make_tiny_processor().save_pretrained(root / "mofi")
    write_entities(root / "mofi" / "entities.parquet")
    demo = Demo(str(root / "mofi"), i2e=str(write_i2e(root / "i2e")))
    demo.embedding.result()
    return demo


def save(image, path):
    image.save(path)
    return str(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_image_of_any_mode_gets_entities_and_neighbors(demo, tmp_path, mode):
    image = Image.new("L", (30, 20), 90) if mode == "I;16" else Image.new("RGB", (30, 20), COLORS[0])
    name = "query.jpg" if mode == "CMYK" else "query.png"
    html, nearest = demo.name_entities(save(image.convert(mode), tmp_path / name))
    assert html.count('class="entity ') == 4 and len(nearest) == 12


def test_unreadable_upload_is_refused_with_a_message(demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    html, nearest = demo.name_entities(str(tmp_path / "broken.png"))
    assert "broken.png cannot be shown: unknown image format" in html and nearest == []


@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
def test_an_odd_upload_is_named_or_refused_as_by_all_who_open_images(name, demo, tmp_path):
    data, answer = KEPT[name] if name in KEPT else REFUSED[name]
    (tmp_path / "upload.png").write_bytes(data)
    html, nearest = demo.name_entities(str(tmp_path / "upload.png"))
    if name in KEPT:
        assert html.count('class="entity ') == 4 and len(nearest) == 12
    else:
        assert re.search(f"upload.png cannot be shown: ({answer})", html) and nearest == []


def test_bomb_is_refused_with_a_message(demo, tmp_path):
    path = save(Image.new("1", (8000, 7000)), tmp_path / "bomb.png")
    assert "too many pixels" in demo.name_entities(path)[0]


def test_fifty_users_at_once_get_their_own_answers(demo, tmp_path):
    paths = [save(Image.new("RGB", (30, 20), color), tmp_path / f"{place}.png") for place, color in enumerate(COLORS)]
    alone = [demo.name_entities(path)[0] for path in paths]
    together = [None] * 50
    threads = [
        threading.Thread(target=lambda user=user: together.__setitem__(user, demo.name_entities(paths[user % 4])[0]))
        for user in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [alone[user % 4] for user in range(50)] and len(set(alone)) > 1


def test_text_that_no_alt_text_contains_is_answered(demo):
    assert "No alt-text contains “cathedral”" in demo.find_row("cathedral")[0]
    assert demo.find_row("Red")[0] == "" and demo.find_row("Red")[1] % 4 == 0


def test_long_texts_are_refused(demo):
    for answer in (demo.search("a" * 301)[0], demo.find_row("a" * 301)[0]):
        assert "The text has 301 letters; it may have 300." in answer
    assert len(demo.search("a" * 300)[1]) == 12


def test_a_failure_clears_the_old_answer_and_shows_one_message(demo, monkeypatch, caplog):
    monkeypatch.setattr(demo.index, "search", lambda *arguments, **options: 1 / 0)
    path = demo.example_images(Path(tempfile.mkdtemp()))[0]
    html, nearest = demo.name_entities(path)
    assert html.count("class=message") == 1 and "entity" not in html and nearest == []
    assert caplog.messages == ["an image was not answered: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("name", ["page.eps", "thin.png"])
def test_postscript_and_thin_images_are_refused_before_anything_opens_them(demo, tmp_path, monkeypatch, name):
    from app import uploaded_image
    from gradio.data_classes import ImageData

    path = tmp_path / name
    if name == "thin.png":
        Image.new("1", (20000, 1)).save(path)
    else:
        Image.new("RGB", (9, 9)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    handed = uploaded_image().preprocess(ImageData(path=str(path), orig_name=name))
    html, nearest = demo.name_entities(handed)
    assert f"{name} cannot be shown: " in html and nearest == []


def test_it_starts_from_a_checkpoint_on_the_hub_with_nothing_else(demo, tmp_path, monkeypatch):
    from app import Demo, build_app

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with connected_hub(monkeypatch):
        publish_checkpoint(demo.encoder.name, "me/mofi")
        alone = Demo("me/mofi")
    path = save(Image.new("RGB", (30, 20), COLORS[0]), tmp_path / "query.png")
    html, nearest = alone.name_entities(path)
    assert 'href="https://www.wikidata.org/wiki/Q' in html and nearest == []
    assert build_app(alone).delete_cache == (600, 3600)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_tab_answers_a_click(demo, tmp_path):
    pytest.importorskip("websockets")
    from app import build_app, launch
    from browser import Browser

    app = build_app(demo)
    _, url, _ = launch(app, prevent_thread_lock=True, quiet=True)
    browser = Browser(CHROMIUM)
    try:
        browser.open(url)
        query = save(Image.new("RGB", (30, 20), COLORS[2]), tmp_path / "query.png")
        browser.upload("#query-image input[type=file]", query)
        browser.wait_for("document.querySelectorAll('#entities .entity').length == 4")
        (tmp_path / "broken.png").write_bytes(b"no image")
        browser.run("document.querySelector('#query-image button[aria-label=Remove], #query-image button').click()")
        browser.upload("#query-image input[type=file]", tmp_path / "broken.png")
        browser.wait_for("document.querySelectorAll('#entities .message').length == 1")
        assert browser.run("document.querySelectorAll('#entities .entity, #nearest img, .toast-body').length") == 0
        browser.click_text("button[role=tab]", "Search by text")
        browser.type("#query-text textarea, #query-text input", "a Red flag")
        browser.wait_for("document.querySelectorAll('#found img').length >= 12")
        browser.click_text("button[role=tab]", "Look at I2E")
        browser.wait_for("document.querySelectorAll('#row-entities .tag.kept').length == 1")
    finally:
        browser.close()
        app.close()


def test_upload_of_100_mb_is_refused(demo):
    import httpx
    from app import build_app, launch

    app = build_app(demo)
    _, url, _ = launch(app, prevent_thread_lock=True, quiet=True)
    try:
        files = {"files": ("big.png", bytes(100 * 2**20))}
        answer = httpx.post(f"{url}gradio_api/upload", files=files, timeout=120)
        assert answer.status_code == 413
    finally:
        app.close()


def test_labeled_images_give_confidences_and_nothing_known(demo, tmp_path):
    from app import Demo

    rows = {"image": [], "label": []}
    for row in range(16):
        rows["image"].append({"bytes": picture(COLORS[row % 4], seed=row), "path": None})
        rows["label"].append(f"Q{row % 4}" if row < 8 else None)
    pq.write_table(pa.table(rows), tmp_path / "labeled.parquet")
    calibrated = Demo(demo.encoder.name, calibration=[str(tmp_path / "labeled.parquet")], label_column="label")
    html, nearest = calibrated.name_entities(save(Image.new("RGB", (30, 20), COLORS[0]), tmp_path / "query.png"))
    assert "this index knows (" in html and "% · cosine" in html and nearest == []
    with pytest.raises(ValueError, match="labeled.parquet has no column gold_entity_id; its columns are image, label"):
        Demo(demo.encoder.name, calibration=[str(tmp_path / "labeled.parquet")])


def test_saved_index_is_taken_with_its_calibration(demo, tmp_path):
    from app import Demo

    demo.index.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "entity_index.json").read_text())
    settings["calibration"] = {"scale": 10.0, "threshold": 2.0}
    (tmp_path / "entity_index.json").write_text(json.dumps(settings))
    html, _ = Demo("nowhere", index=str(tmp_path)).name_entities(
        save(Image.new("RGB", (9, 9)), tmp_path / "query.png")
    )
    assert "Most likely nothing that this index knows" in html


def test_page_is_there_while_the_gallery_is_being_embedded(demo, monkeypatch):
    monkeypatch.setattr(demo, "embedding", Future())
    assert demo.nearest("a Red flag") == []
