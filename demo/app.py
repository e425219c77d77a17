"""Shows in a browser what a MOFI checkpoint does: names entities, searches images, and looks at an I2E build.

python demo/app.py --model runs/sample/mofi --i2e runs/sample/i2e --gallery my_images/
"""

import argparse
import io
import logging
import os
import random

import gradio as gr
from html_parts import CSS, answer_html, row_html
from i2e_browser import I2EBrowser
from PIL import Image

from modeling_mofi.encoder_mofi import MofiEncoder, read_image
from modeling_mofi.entity_index import EntityIndex
from modeling_mofi.image_gallery import ImageGallery


logger = logging.getLogger(__name__)

MAX_UPLOAD = "20mb"
MAX_PIXELS = 50_000_000
NUM_SHOWN = 12


class Demo:
    """What the tabs share; nothing in it changes while users come and go.

    Args:
        model: Checkpoint folder or Hub id.
        i2e: Folder of an I2E build, or None.
        gallery: Folder of images, or None to search the build's images.
    """

    def __init__(self, model: str, *, i2e: str | None = None, gallery: str | None = None):
        self.browser = None if i2e is None else I2EBrowser(i2e)
        self.index = load_index(model)
        self.encoder = self.index.encoder if self.index is not None else MofiEncoder.from_pretrained(model)
        self.gallery = None
        if gallery is not None:
            self.gallery = ImageGallery.from_folder(gallery, self.encoder)
        elif self.browser is not None:
            self.gallery = gallery_of_build(self.browser, self.encoder)

    def name_entities(self, path: str | None) -> tuple[str, list]:
        """Entities of an uploaded image, and the gallery's nearest images."""
        if path is None:
            return "", []
        image = opened(path)
        answer = "" if self.index is None else answer_html(self.index.search([image], k=5)[0])
        return answer, self.nearest(image)

    def nearest(self, query: Image.Image | str) -> list[tuple[Image.Image, str]]:
        """The gallery's images nearest to an image or a text."""
        if self.gallery is None or query == "":
            return []
        found = self.gallery.search([query], k=NUM_SHOWN)[0]
        return [(self.picture(image.path), f"{image.similarity:.2f}") for image in found]

    def picture(self, path: str) -> Image.Image:
        """An image of the gallery: a file, or `row:N` of the build."""
        if path.startswith("row:"):
            return Image.open(io.BytesIO(self.browser[int(path[4:])].image))
        return read_image(path)

    def show_row(self, number: float) -> tuple[Image.Image, str]:
        """Image and entities of a row of the build."""
        row = self.browser[min(max(int(number or 0), 0), len(self.browser) - 1)]
        return Image.open(io.BytesIO(row.image)), row_html(row)

    def find_row(self, text: str) -> int:
        """A row whose alt-text contains a text, another one each time."""
        found = self.browser.find(text)
        if not found:
            raise gr.Error(f"No alt-text contains “{text}”.")
        return random.choice(found)


def opened(path: str) -> Image.Image:
    """An uploaded image, or a message that the user sees."""
    try:
        return read_image(path, max_pixels=MAX_PIXELS)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def load_index(model: str) -> EntityIndex | None:
    """The checkpoint's entities, or None if it names none."""
    try:
        return EntityIndex.from_checkpoint(model)
    except ValueError as error:
        logger.warning("no entities to name: %s", error)
        return None


def gallery_of_build(browser: I2EBrowser, encoder: MofiEncoder, *, limit: int = 5000) -> ImageGallery:
    """The first rows of a build as a gallery."""
    numbers = range(min(limit, len(browser)))
    logger.info("embedding %d images of the build", len(numbers))
    images = (Image.open(io.BytesIO(browser[number].image)) for number in numbers)
    return ImageGallery(encoder.encode_images(list(images)), [f"row:{number}" for number in numbers], encoder)


def build_app(demo: Demo) -> gr.Blocks:
    """The tabs."""
    with gr.Blocks(title="MOFI") as app:
        gr.Markdown("# MOFI\nWhich entity is this? Image representations learned from noisy image and alt-text pairs.")
        with gr.Tab("Name an image"):
            name_tab(demo)
        if demo.gallery is not None:
            with gr.Tab("Search by text"):
                search_tab(demo)
        if demo.browser is not None:
            with gr.Tab("Look at I2E"):
                shown = browse_tab(demo)
            app.load(lambda: demo.show_row(0), None, shown)
    return app


def name_tab(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=2):
            image = gr.Image(type="filepath", label="Drop an image", height=340, elem_id="query-image")
        with gr.Column(scale=3):
            entities = gr.HTML(elem_id="entities")
    nearest = gr.Gallery(
        label="Nearest images of the gallery",
        columns=6,
        height=360,
        object_fit="cover",
        elem_id="nearest",
        visible=demo.gallery is not None,
    )
    image.change(demo.name_entities, image, [entities, nearest])


def search_tab(demo: Demo) -> None:
    text = gr.Textbox(
        label="What are you looking for?", placeholder="a flag, a fruit, a bridge ...", elem_id="query-text"
    )
    button = gr.Button("Search", variant="primary", elem_id="search")
    found = gr.Gallery(label="Nearest images", columns=6, height=420, object_fit="cover", elem_id="found")
    gr.on([text.submit, button.click], demo.nearest, text, found)


def browse_tab(demo: Demo) -> list[gr.components.Component]:
    gr.Markdown(
        f"{len(demo.browser):,} images. Mentions are marked in the alt-text; entities in green were kept, those in "
        "red dropped, with the cosine of image and entity."
    )
    with gr.Row():
        number = gr.Slider(0, len(demo.browser) - 1, value=0, step=1, label="Row", elem_id="row")
        text = gr.Textbox(label="Find a word in the alt-texts", elem_id="find")
        another = gr.Button("Another one", elem_id="another")
    with gr.Row():
        image = gr.Image(interactive=False, label="Image", height=340, scale=2)
        with gr.Column(scale=3):
            about = gr.HTML(elem_id="row-entities")
    number.change(demo.show_row, number, [image, about])
    text.submit(demo.find_row, text, number)
    another.click(lambda: random.randrange(len(demo.browser)), None, number)
    return [image, about]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("MOFI_MODEL", "runs/sample/mofi"), help="folder or Hub id")
    parser.add_argument("--i2e", default=os.environ.get("MOFI_I2E"), help="folder of an I2E build to look at")
    parser.add_argument("--gallery", default=os.environ.get("MOFI_GALLERY"), help="folder of images to search")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    app = build_app(Demo(args.model, i2e=args.i2e, gallery=args.gallery))
    app.queue(default_concurrency_limit=2).launch(
        server_name=args.host, server_port=args.port, max_file_size=MAX_UPLOAD, css=CSS
    )


if __name__ == "__main__":
    main()
