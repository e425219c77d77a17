"""The demo in a headless Chromium, tab by tab, on a tiny checkpoint and build; and what it refuses."""

import json
import shutil
import threading
from concurrent.futures import Future

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny import COLORS, make_tiny_config, make_tiny_processor, picture, write_entities, write_i2e

from modeling_mofi import MofiForPreTraining


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
    with pytest.raises(gr.Error, match="broken.png cannot be shown: unknown image format"):
        demo.name_entities(str(tmp_path / "broken.png"))


def test_bomb_is_refused_with_a_message(demo, tmp_path):
    path = save(Image.new("1", (8000, 7000)), tmp_path / "bomb.png")
    with pytest.raises(gr.Error, match="too many pixels"):
        demo.name_entities(path)


def test_two_users_at_once_get_their_own_answers(demo, tmp_path):
    paths = [save(Image.new("RGB", (30, 20), color), tmp_path / f"{place}.png") for place, color in enumerate(COLORS)]
    alone = [demo.name_entities(path)[0] for path in paths]
    together = {}
    threads = [
        threading.Thread(target=lambda p=path: together.update({p: demo.name_entities(p)[0]})) for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[path] for path in paths] == alone and len(set(alone)) > 1


def test_text_that_no_alt_text_contains_is_answered(demo):
    with pytest.raises(gr.Error, match="No alt-text contains"):
        demo.find_row("cathedral")


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
