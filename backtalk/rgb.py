"""Whatever a file stores, as upright RGB.

Palettes are resolved, CMYK is converted, 16-bit samples keep their high byte, and whatever is transparent is
laid over white, as a page would show it. Colour profiles and gamma are ignored.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pixels that are converted at once.
_BAND_PIXELS: Final = 2**20


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 3). What is not RGB is converted in bands, so that its copies stay small."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(_band_to_rgb(image.crop((0, top, image.width, bottom))))
    return pixels


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Upright (EXIF 2.32, 4.6.4, Orientation), C-contiguous and read-only."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    upright = np.ascontiguousarray(pixels)
    upright.flags.writeable = False
    return upright


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion clips it to white."""
    grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey
