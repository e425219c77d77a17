"""Shows in a browser what a MOFI checkpoint does: names entities, searches images, and looks at an I2E build.

python demo/app.py --model runs/sample/mofi --i2e runs/sample/i2e --gallery my_images/
"""

import argparse
import logging
import os
import random
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from entity_naming import calibrate, load_index
from html_parts import CSS, INTRODUCTION, answer_html, knowledge_base_link, message_html, row_html
from i2e_browser import I2EBrowser
from PIL import Image

from modeling_mofi.data.images import ImageBounds, UnreadableImage, read_image
from modeling_mofi.search.encoder import MofiEncoder
from modeling_mofi.search.image_gallery import ImageGallery
from modeling_mofi.user_errors import run_command


logger = logging.getLogger(__name__)

MAX_UPLOAD = "20mb"
UPLOADS = ImageBounds(max_pixels=50_000_000)
NUM_SHOWN, NUM_EXAMPLES = 12, 8
MAX_GALLERY_ROWS = 5000
MAX_QUERY_LETTERS = 300
# Uploads and the images of answers are looked for every ten minutes, and deleted when they are an hour old.
DELETE_EVERY_SECONDS, DELETE_AFTER_SECONDS = 600, 3600
FAILED = "This did not work, for a reason on our side. Try again, or with another image."
FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]  # Of the reader's own machine: nothing to load.


class Demo:
    """What the tabs share; once the gallery is embedded nothing in it changes while users come and go.

    Args:
        model: Checkpoint folder or Hub id.
        index: Folder or Hub id of a saved `EntityIndex`; by default one is built from the checkpoint's entities.
        i2e: Folder of an I2E build, or None.
        gallery: Folder of images, or None to search the build's images.
        calibration: Parquet files of labeled images that training has not seen.
        label_column: Their column of entity ids; ids that the index lacks stand for nothing known.
    """

    def __init__(
        self,
        model: str,
        *,
        index: str | None = None,
        i2e: str | None = None,
        gallery: str | None = None,
        calibration: list[str] | None = None,
        label_column: str = "gold_entity_id",
    ):
        self.browser = None if i2e is None else I2EBrowser(i2e)
        self.index = load_index(model, index)
        if self.index is not None and calibration:
            calibrate(self.index, calibration, label_column=label_column)
        self.encoder = self.index.encoder if self.index is not None else MofiEncoder.from_pretrained(model)
        # In the background: the page is there at once, and names entities while the gallery is being embedded.
        self.embedding: Future[ImageGallery] | None = None
        if gallery is not None or self.browser is not None:
            executor = ThreadPoolExecutor(1)
            self.embedding = executor.submit(self._embed_gallery, gallery)
            executor.shutdown(wait=False)

    def _embed_gallery(self, folder: str | None) -> ImageGallery:
        if folder is not None:
            return ImageGallery.from_folder(folder, self.encoder)
        numbers = range(min(MAX_GALLERY_ROWS, len(self.browser)))
        images = [read_image(self.browser[number].image) for number in numbers]
        gallery = ImageGallery(
            self.encoder.encode_images(images), [f"row:{number}" for number in numbers], self.encoder
        )
        logger.info("embedded %d images of the build", len(gallery))
        return gallery

    def name_entities(self, path: str | None) -> tuple[str, list]:
        """Entities of an uploaded image, and the gallery's nearest images; of one that fails a message and nothing."""
        if path is None:
            return INTRODUCTION, []
        try:
            image = read_image(path, bounds=UPLOADS)
            answer = "" if self.index is None else answer_html(self.index.search([image], k=5)[0])
            return answer, self.nearest(image)
        except UnreadableImage as error:
            return message_html(f"{Path(path).name} cannot be shown: {error}."), []
        except Exception as error:  # The old answer would stay beside the new image.
            logger.error("an image was not answered: %s: %s", type(error).__name__, error)
            return message_html(FAILED), []

    def search(self, text: str | None) -> tuple[str, list]:
        """A message, mostly none, and the gallery's images nearest to a text."""
        if refusal := refuse_query(text):
            return message_html(refusal), []
        try:
            return "", self.nearest(text or "")
        except Exception as error:  # As above.
            logger.error("a text was not answered: %s: %s", type(error).__name__, error)
            return message_html(FAILED), []

    def nearest(self, query: Image.Image | str) -> list[tuple[Image.Image, str]]:
        """The gallery's images nearest to an image or a text; those that can be read no more are left out."""
        if self.embedding is None or not query:
            return []
        if not self.embedding.done():
            gr.Info("The gallery is still being embedded; look again in a moment.")
            return []
        pictures = []
        for image in self.embedding.result().search([query], k=NUM_SHOWN)[0]:
            try:
                pictures.append(self.picture(image.path, image.similarity))
            except UnreadableImage as error:
                logger.warning("%s is no longer shown: %s", image.path, error)
        return pictures

    def picture(self, path: str, similarity: float) -> tuple[Image.Image, str]:
        """An image of the gallery with its caption: a file, or `row:N` of the build."""
        if not path.startswith("row:"):
            return read_image(path), f"{similarity:.2f} · {Path(path).stem}"
        row = self.browser[int(path[4:])]
        return read_image(row.image), f"{similarity:.2f} · {row.alt_text}"

    def show_row(self, number: float) -> tuple[Image.Image | None, str]:
        """Image and entities of a row of the build."""
        row = self.browser[min(max(int(number or 0), 0), len(self.browser) - 1)]
        try:
            return read_image(row.image), row_html(row)
        except UnreadableImage as error:
            return None, message_html(f"The image of this row cannot be shown: {error}.") + row_html(row)

    def find_row(self, text: str | None) -> tuple[str, Any]:
        """A message, mostly none, and a row whose alt-text contains a text, another one each time."""
        if refusal := refuse_query(text):
            return message_html(refusal), gr.skip()
        found = self.browser.find(text or "")
        if not found:
            return message_html(f"No alt-text contains “{text}”."), gr.skip()
        return "", random.choice(found)

    def example_images(self, folder: Path) -> list[str]:
        """Some images of the build, spread over it, written as files to choose from."""
        if self.browser is None:
            return []
        numbers = [len(self.browser) * (2 * place + 1) // (2 * NUM_EXAMPLES) for place in range(NUM_EXAMPLES)]
        for number in numbers:
            image = read_image(self.browser[number].image)
            image.save(folder / f"{number}.png")
        return [str(folder / f"{number}.png") for number in numbers]

    def example_texts(self) -> list[str]:
        """Names of some entities, spread over the index."""
        names = [] if self.index is None else self.index.entities["name"]
        return sorted({names[len(names) * place // NUM_EXAMPLES] for place in range(NUM_EXAMPLES)}) if names else []


def uploaded_image(**options: Any) -> gr.Image:
    """An image that is handed over as the file that came: Gradio itself opens it, with every decoder Pillow has."""
    image = gr.Image(type="filepath", **options)
    # Not by a subclass, of which Gradio would write a stub beside this file.
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def refuse_query(text: str | None) -> str | None:
    """Why a text is not looked for; the field in the browser bounds it, other programs may send anything."""
    if text is not None and len(text) > MAX_QUERY_LETTERS:
        return f"The text has {len(text):,} letters; it may have {MAX_QUERY_LETTERS}."
    return None


def build_app(demo: Demo) -> gr.Blocks:
    """The tabs."""
    delete_cache = (DELETE_EVERY_SECONDS, DELETE_AFTER_SECONDS)
    with gr.Blocks(title="MOFI", analytics_enabled=False, delete_cache=delete_cache) as app:
        gr.HTML(
            "<h1>MOFI</h1><p>Which entity is this? An image encoder that learned from images and their alt-texts.</p>"
        )
        with gr.Tab("Name an image"):
            name_tab(demo)
        if demo.embedding is not None:
            with gr.Tab("Search by text"):
                search_tab(demo)
        if demo.browser is not None:
            with gr.Tab("Look at I2E"):
                browse_tab(demo)
    return app


def name_tab(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=2):
            image = uploaded_image(label="Drop an image", height=340, elem_id="query-image")
            folder = tempfile.mkdtemp(prefix="mofi-examples-")
            gr.set_static_paths([folder])  # Served from here, not from the cache, of which files are deleted.
            if examples := demo.example_images(Path(folder)):
                gr.Examples([[path] for path in examples], image, label="or take one of these", elem_id="examples")
        with gr.Column(scale=3):
            entities = gr.HTML(INTRODUCTION, elem_id="entities")
    with gr.Column(visible=demo.embedding is not None):
        nearest = gallery("Nearest images of the gallery", "nearest")
    image.change(demo.name_entities, image, [entities, nearest])


def search_tab(demo: Demo) -> None:
    with gr.Row(equal_height=True):
        text = gr.Textbox(
            show_label=False,
            container=False,
            max_length=MAX_QUERY_LETTERS,
            placeholder="What are you looking for? a flag, a fruit, a bridge ...",
            scale=6,
            elem_id="query-text",
        )
        button = gr.Button("Search", variant="primary", elem_id="search", scale=1)
    if texts := demo.example_texts():
        gr.Examples([[text] for text in texts], text, label="for example", elem_id="text-examples")
    message = gr.HTML(elem_id="search-message")
    found = gallery("Nearest images", "found")
    gr.on([text.submit, button.click], demo.search, text, [message, found])
    answer = lambda query: demo.search(query) if query in texts else (gr.skip(), gr.skip())  # noqa: E731
    text.change(answer, text, [message, found])


def gallery(label: str, elem_id: str) -> gr.Gallery:
    gr.HTML(f"<h3>{label}</h3>")
    return gr.Gallery(show_label=False, columns=6, height="auto", object_fit="contain", elem_id=elem_id)


def browse_tab(demo: Demo) -> None:
    gr.HTML(
        f"<p>{len(demo.browser):,} images. <mark>Mentions</mark> are marked in the alt-text. Entities in "
        "<span class='tag kept'>green</span> were kept, those in <span class='tag dropped'>red</span> dropped, for "
        "the reason given; the number is the cosine of image and entity."
        f"{knowledge_base_link(demo.browser.knowledge_base)}</p>",
        elem_classes="legend",
    )
    with gr.Row(equal_height=True):
        number = gr.Slider(0, len(demo.browser) - 1, value=0, step=1, label="Row", elem_id="row", scale=3)
        text = gr.Textbox(
            label="Find a word in the alt-texts",
            placeholder="and press Enter",
            max_length=MAX_QUERY_LETTERS,
            elem_id="find",
            scale=2,
        )
        another = gr.Button("Another one", elem_id="another", scale=1)
    message = gr.HTML(elem_id="find-message")
    first_image, first_html = demo.show_row(0)
    with gr.Row():
        with gr.Column(scale=2):
            image = gr.Image(first_image, interactive=False, show_label=False, height=340, elem_id="row-image")
        with gr.Column(scale=3):
            about = gr.HTML(first_html, elem_id="row-entities")
    number.change(demo.show_row, number, [image, about])
    text.submit(demo.find_row, text, [message, number])
    another.click(lambda: ("", random.randrange(len(demo.browser))), None, [message, number])


def launch(app: gr.Blocks, **options: object) -> tuple:
    """Serves the tabs, two requests of a kind at a time, the others queued."""
    theme = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=["monospace"])
    app.queue(default_concurrency_limit=2)
    return app.launch(max_file_size=MAX_UPLOAD, css=CSS, theme=theme, footer_links=[], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("MOFI_MODEL", "runs/sample/mofi"), help="folder or Hub id")
    parser.add_argument("--index", default=os.environ.get("MOFI_INDEX"), help="saved EntityIndex, folder or Hub id")
    parser.add_argument("--i2e", default=os.environ.get("MOFI_I2E"), help="folder of an I2E build to look at")
    parser.add_argument("--gallery", default=os.environ.get("MOFI_GALLERY"), help="folder of images to search")
    parser.add_argument("--calibration", nargs="*", help="Parquet files of labeled images, to calibrate confidences")
    parser.add_argument("--label_column", default="gold_entity_id", help="their column of entity ids")
    parser.add_argument("--host", default=None, help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, default=None, help="7860 or the next free one by default")
    args = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    address = {"server_name": args.pop("host"), "server_port": args.pop("port")}
    launch(build_app(Demo(args.pop("model"), **args)), **address)


if __name__ == "__main__":
    run_command(main, extra="demo")
