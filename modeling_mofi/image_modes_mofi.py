"""Turns Pillow images of any mode into upright RGB pixels, whatever their metadata hold."""

import numpy as np
from PIL import Image


ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A band of an image is converted at a time: laying it on white takes four copies of its pixels.
BAND_PIXELS = 2**20


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns an image of any mode into RGB: turned upright, transparency laid on white, deeper levels as 8-bit.

    An RGB image that is upright and opaque is returned unchanged. Any error of Pillow's decoders may be raised.
    """
    load(image)
    orientation = read_orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = gray_to_rgb(image)
    elif image.mode != "RGB" or "transparency" in image.info:
        image = in_bands(image)
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def load(image: Image.Image) -> None:
    """Decodes an opened image; of a TIFF's tags only the orientation is read."""
    if image.format == "TIFF" and getattr(image, "tile", None):
        # Pillow turns a TIFF while it decodes it, and reads all its EXIF blocks on the way.
        exif = image.getexif()
        for tag in set(exif) - {ORIENTATION}:
            del exif[tag]
    image.load()


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, out of its tag alone; 1 where there is none, and 0 where the block is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        return int(orientation) if orientation in TURNS else 1
    except Exception:  # Pillow meets damaged blocks with errors of almost any type.
        return 0


def in_bands(image: Image.Image) -> Image.Image:
    """Converts an image of 8 bits a channel to RGB, some rows at a time, and lays it on white."""
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        return lay_on_white(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(lay_on_white(band), (0, top))
    return rgb


def lay_on_white(image: Image.Image) -> Image.Image:
    """Converts an image of 8 bits a channel to RGB; what is transparent becomes white."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image.convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        # The color key of a PNG of 16 bits, which Pillow opens with 8: a copy, for `info` is shared with the caller.
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in key)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def gray_to_rgb(image: Image.Image) -> Image.Image:
    """Gray levels of more than 8 bits as RGB; those equal to the color key are white."""
    levels = np.array(image, dtype=np.float32)
    gray = to_8_bit(levels, mode=image.mode)
    if isinstance(key := image.info.get("transparency"), (int, float)):
        gray[levels == key] = 255
    return Image.fromarray(gray).convert("RGB")


def to_8_bit(levels: np.ndarray, *, mode: str) -> np.ndarray:
    """Scales gray levels of PIL mode I;16, I or F to uint8 in [0, 255]; what is no number is black.

    I;16 has 16 bits. The range of I and F is not recorded anywhere: up to 1 (F), up to 255, or 16 bits.
    """
    finite = np.isfinite(levels)
    highest = levels.max(initial=0, where=finite)
    largest = 65535.0
    if ";" not in mode and highest <= 255:
        largest = 1.0 if mode == "F" and highest <= 1 else 255.0
    scaled = np.where(np.isnan(levels), 0, levels) if not finite.all() else levels
    return (scaled * (255 / largest)).round().clip(0, 255).astype(np.uint8)
