"""The one way in for pixels: what the API, the trainer and the judge see of an image.

What a file costs is bounded before it is decoded: bytes, parts and passes (`metadata`), pixels, frames. So no
decoder runs for longer than a large picture takes, and no clock has to stop one.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from threading import BoundedSemaphore
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from backtalk.errors import ImageTooLarge, RefusedImage, UnsupportedImage
from backtalk.likeness import hamming, hamming_to_many, perceptual_hash
from backtalk.metadata import cut_metadata, strip_metadata
from backtalk.rgb import to_rgb, turn_upright

__all__ = [
    "Picture",
    "Turns",
    "Undecoded",
    "decode",
    "find_format",
    "hamming",
    "hamming_to_many",
    "inspect",
    "perceptual_hash",
    "pixels_digest",
    "strip_metadata",
    "thumbnail",
    "to_input",
]

# Loaded here, or Pillow loads all of its forty formats at the first WebP.
_PLUGINS: Final = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)

# Whoever sends damaged files would write into our logs, and fill the registry of warnings already given.
# What they say is either of no matter (odd metadata) or checked here (size).
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_BYTES: Final = 20 * 2**20
MAX_PIXELS: Final = 25_000_000
#: As in JPEG. Pillow keeps an address for each row: a column of 25 million pixels would take 600 MB.
MAX_SIDE: Final = 65_535
#: Of what was taken in once, whatever the limits are now; Pillow has a limit of its own below it.
MAX_STORED_PIXELS: Final = 2**31
#: Of a file in a dataset, whatever the limit for uploads: what is turned upright is written as PNG, at most
#: three bytes for each of the pixels that Pillow takes, and what lies around them.
MAX_WRITTEN_BYTES: Final = 2**28 + 2**20
#: Larger pictures take turns: each needs up to twelve bytes a pixel while it is decoded.
LARGE_PIXELS: Final = 2_000_000

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


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright."""

    pixels: NDArray[np.uint8]  # (height, width, 3), C-contiguous, read-only, orientation applied
    format: str  # JPEG, PNG or WEBP
    orientation: int  # EXIF, 1 to 8: what was applied
    data: bytes  # the file without its metadata: what may be kept

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Undecoded:
    """A file that may be decoded: what that will cost is known, and within the limits."""

    data: bytes  # without its metadata
    format: str
    orientation: int
    pixel_count: int

    def decode(self) -> Picture:
        """The picture. Raises RefusedImage: `truncated`, `damaged`."""
        try:
            with Image.open(BytesIO(self.data), formats=(self.format,)) as image:
                if image.width * image.height != self.pixel_count:  # its parts contradict each other
                    raise ValueError("the size is another than the container says")
                image.load()
                pixels = turn_upright(to_rgb(image), self.orientation)
        except DAMAGE as error:
            raise _explain_damage(self.data, error) from None
        return Picture(pixels, self.format, self.orientation, self.data)


class Turns:
    """Lets only so many large pictures be decoded at the same time; ordinary ones never wait."""

    def __init__(self, at_once: int) -> None:
        self._free = BoundedSemaphore(at_once)

    @contextmanager
    def take(self, pixel_count: int) -> Iterator[None]:
        """Hold a turn, if the picture is large enough to need one."""
        if pixel_count <= LARGE_PIXELS:
            yield
            return
        with self._free:
            yield


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    orientation: int | None = None,
) -> Picture:
    """Decode a JPEG, PNG or WebP of one picture. Thread-safe. See `inspect` for arguments and errors."""
    return inspect(data, max_bytes=max_bytes, max_pixels=max_pixels, orientation=orientation).decode()


def inspect(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    orientation: int | None = None,
) -> Undecoded:
    """Find out whether a file may be decoded, at next to no cost whatever it is.

    Args:
        max_pixels: also bounded by Pillow's own limit, 89 million.
        orientation: use this one, not the file's (whose metadata was cut out).

    Raises:
        UnsupportedImage: another kind of file (`unsupported-format`, `not-an-image`).
        ImageTooLarge: `too-large` in bytes, or `too-many-pixels`.
        RefusedImage: `empty`, `truncated`, `damaged`, `not-an-image`, `animated`, `multi-picture` or
            `too-many-parts`.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(
            "too-large",
            f"The image has {len(data):,} bytes; at most {max_bytes:,} are taken.",
            limit=max_bytes,
        )
    kind = _get_format(data)
    cut = cut_metadata(data, kind)
    if cut.several:
        raise RefusedImage("multi-picture", "This JPEG holds several pictures: send one of them alone.")
    if cut.animated:  # also with one frame: that may paint a part of the canvas only
        raise RefusedImage("animated", "Animations are not taken: send one frame as a still picture.")
    width, height = cut.size or _open_for_size(cut.data, kind)
    _check_size(width, height, max_pixels)
    applied = cut.orientation if orientation is None else orientation
    return Undecoded(cut.data, kind, applied, width * height)


def _open_for_size(data: bytes, kind: str) -> tuple[int, int]:
    """Pillow reads the head alone, but for a WebP, which it would prepare to decode: that one told before."""
    try:
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            return image.size
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


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(
            "too-many-pixels",
            f"{width} × {height}: a side has at most {MAX_SIDE:,} pixels: scale down.",
            limit=MAX_SIDE,
        )
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if width * height > limit:
        raise ImageTooLarge(
            "too-many-pixels",
            f"{width} × {height} pixels are too many; at most {limit:,} are taken: scale down.",
            limit=limit,
        )


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
