"""The one way in for pixels: what the API, the trainer and the judge see of an image.

Colours: palettes are resolved, CMYK is converted, 16-bit samples keep their high byte, and whatever is
transparent is laid over white, as a page would show it. Colour profiles and gamma are ignored.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from backtalk.errors import ImageTooLarge, RefusedImage, UnsupportedImage
from backtalk.likeness import hamming, hamming_to_many, perceptual_hash
from backtalk.metadata import strip_metadata

__all__ = [
    "Picture",
    "decode",
    "find_format",
    "hamming",
    "hamming_to_many",
    "perceptual_hash",
    "pixels_digest",
    "strip_metadata",
    "thumbnail",
    "to_input",
]

# Loaded here, or Pillow loads all of its forty formats at the first WebP.
_PLUGINS: Final = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin)

# Whoever sends damaged files would write into our logs, and fill the registry of warnings already given.
# What they say is either of no matter (odd metadata) or checked here (size).
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_BYTES: Final = 20 * 2**20
MAX_PIXELS: Final = 25_000_000
_ORIENTATION: Final = 0x0112  # EXIF tag
_MP_ENTRIES: Final = 0xB002  # multi-picture tag
_APPLE_GAIN_MAP: Final = b"urn:com:apple:photo:2020:aux:hdrgainmap"

#: What Pillow may raise on damaged files. Anything else is a fault of ours and must be seen.
DAMAGE: Final = (
    OSError,  # also UnidentifiedImageError
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where the process turns warnings into errors
)

_OTHER_FORMATS: Final = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"<svg", "SVG"),
)

_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright."""

    pixels: NDArray[np.uint8]  # (height, width, 3), C-contiguous, read-only, orientation applied
    format: str  # JPEG, PNG or WEBP
    orientation: int  # EXIF, 1 to 8: what was applied

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    orientation: int | None = None,
) -> Picture:
    """Decode a JPEG, PNG or WebP of one picture. Thread-safe.

    Args:
        max_pixels: also bounded by Pillow's own limit, 89 million.
        orientation: use this one, not the file's (whose metadata was cut out).

    Raises:
        UnsupportedImage: another kind of file (`unsupported-format`, `not-an-image`).
        ImageTooLarge: `too-large` in bytes, or `too-many-pixels`; found before decoding.
        RefusedImage: `empty`, `truncated`, `damaged`, `not-an-image`, `animated` or `multi-picture`.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(
            "too-large",
            f"The image has {len(data):,} bytes; at most {max_bytes:,} are taken.",
            limit=max_bytes,
        )
    kind = _get_format(data)
    try:
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            _check_container(image, data, max_pixels)
            strip_metadata(data, kind)  # refuses what breaks off behind the pixels, for next to nothing
            image.load()
            applied = _find_orientation(image) if orientation is None else orientation
            return Picture(_to_rgb(image, applied), kind, applied)
    except DAMAGE as error:
        raise _explain_damage(data, error) from None


def _get_format(data: bytes) -> str:
    if not data:
        raise RefusedImage("empty", "There are no bytes: send the image itself.")
    kind = find_format(data)
    if kind is not None:
        return kind
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            raise UnsupportedImage(
                "unsupported-format", f"{name} is not taken: convert the image to JPEG, PNG or WebP."
            )
    raise UnsupportedImage("not-an-image", "This is not an image: send a JPEG, PNG or WebP file.")


def find_format(data: bytes) -> str | None:
    """JPEG, PNG or WEBP by the first bytes, whatever the sender calls it."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def _check_container(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """What only shows once the file is opened, and still costs next to nothing."""
    if image.format == "MPO" and not _is_one_picture(image, data):  # passes Pillow's JPEG filter
        raise RefusedImage("multi-picture", "This JPEG holds several pictures: send one of them alone.")
    if image.format != "MPO" and _is_animated(image, data):
        raise RefusedImage("animated", "Animations are not taken: send one frame as a still picture.")
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if image.width * image.height > limit:
        raise ImageTooLarge(
            "too-many-pixels",
            f"{image.width} × {image.height} pixels are too many; at most {limit:,} are taken: scale down.",
            limit=limit,
        )


def _is_one_picture(image: Image.Image, data: bytes) -> bool:
    """Whether all that a multi-picture file adds to its first picture is previews or a gain map.

    Many cameras and phones write such files (CIPA DC-007, "Baseline MP"); their owners know one picture.
    """
    _, *others = getattr(image, "mpinfo", {}).get(_MP_ENTRIES, [None])
    types = [str(entry["Attribute"]["MPType"]) for entry in others]
    return all(kind.startswith("Large Thumbnail") for kind in types) or (
        len(types) == 1 and types[0] == "Undefined" and _APPLE_GAIN_MAP in data
    )


def _is_animated(image: Image.Image, data: bytes) -> bool:
    """Also with one frame: that may paint a part of the canvas only, so it is no still picture either."""
    one_frame_apng = image.format == "PNG" and ("loop" in image.info or "bbox" in image.info)
    one_frame_webp = data[12:16] == b"VP8X" and bool(data[20] & 0x02)
    return getattr(image, "n_frames", 1) != 1 or one_frame_apng or one_frame_webp


def _explain_damage(data: bytes, error: BaseException) -> RefusedImage:
    if isinstance(error, Image.DecompressionBombError):
        return ImageTooLarge("too-many-pixels", "The image has too many pixels: scale it down.")
    if isinstance(error, MemoryError):
        return ImageTooLarge("too-many-pixels", "The image needs more memory to decode than there is.")
    short_webp = find_format(data) == "WEBP" and len(data) < int.from_bytes(data[4:8], "little") + 8
    if short_webp or isinstance(error, EOFError) or "truncated" in str(error).lower():
        return RefusedImage("truncated", "The image breaks off before its end: send the whole file again.")
    if isinstance(error, UnidentifiedImageError):
        return RefusedImage("not-an-image", "It begins like an image, but it is none that can be read.")
    return RefusedImage("damaged", "The image is damaged and cannot be decoded: send another copy of it.")


def _find_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:  # damaged metadata; the pixels are sound
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return np.asarray(image)


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion clips it to white."""
    grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey


# --- what is made of pixels --------------------------------------------------------------------
def to_input(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the largest centred square to (size, size, 3): bicubic, antialiased where it shrinks.

    A square of six times the size or more is first averaged over whole pixels (Pillow's `reducing_gap`):
    five times faster on photos from phones, and within 2 of 255 of the plain filter. The square is cut out
    first: of anything else, Pillow picks the order of its two passes by shape and by version, and
    `backtalk.learn.pixels` could not do the same in TensorFlow.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256, in hexadecimal, over the shape and the bytes of an image."""
    digest = sha256(struct.pack("<3I", *pixels.shape))
    digest.update(np.ascontiguousarray(pixels).reshape(-1).data)
    return digest.hexdigest()


def thumbnail(pixels: NDArray[np.uint8], max_side: int) -> bytes:
    """A fresh JPEG of at most `max_side` pixels a side, never enlarged: what browsers get to see."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    out = BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
