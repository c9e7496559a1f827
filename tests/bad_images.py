"""Bad files, hundreds of them, made from good ones. The same seed makes the same files.

Nothing here is a file that anybody else made.
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


# --- bad ones ----------------------------------------------------------------------------------
def list_bad_images(*, heavy: bool = True) -> Iterator[tuple[str, bytes]]:
    """Every bad file with its name, in the same order each time; some are odd and yet good.

    Args:
        heavy: also those that take a second to make, or as long to decode.
    """
    for name, data in make_good_ones().items():
        yield from _cut(name, data)
        yield from _flip(name, data)
    yield from _lie()
    yield from _polyglots()
    yield from _odd_but_whole()
    yield from _not_images()
    if heavy:
        yield from _bombs()
        yield from _metadata()
        yield from _parts_and_passes()


def _cut(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """At every kilobyte, and in the first bytes, where every format keeps its head."""
    places = {*range(KILOBYTE, len(data), KILOBYTE), 1, 2, 3, 8, 11, 12, 20, 25, 33, 60, len(data) - 1}
    for place in sorted(places):
        yield f"{name} cut at {place}", data[:place]


def _flip(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    for turn in range(16):
        dice = seeded("flip", name, turn)
        broken = bytearray(data)
        within = len(data) if turn % 2 else min(len(data), 120)  # the head is the more delicate half
        for _ in range(dice.choice((1, 1, 4, 32))):
            broken[dice.randrange(within)] ^= 1 << dice.randrange(8)
        yield f"{name} flipped {turn}", bytes(broken)


def _lie() -> Iterator[tuple[str, bytes]]:
    """Headers that claim other sizes, depths and lengths than there are."""
    png, jpeg, webp = (encode(make_scene(), kind) for kind in ("PNG", "JPEG", "WEBP"))
    for width, height in (
        (0, 240),
        (320, 0),
        (320, 10_000),
        (10_000, 240),
        (2**31 - 1, 1),
        (2**32 - 1, 2**32 - 1),
    ):
        header = png_chunk(b"IHDR", struct.pack(">II", width, height) + png[24:29])
        yield f"png that says {width} x {height}", png[:8] + header + png[33:]
    for at in range(24, 29):
        for value in (0, 1, 3, 16, 255):
            header = bytearray(png[16:29])
            header[at - 16] = value
            yield f"png header byte {at} is {value}", png[:8] + png_chunk(b"IHDR", bytes(header)) + png[33:]
    frame = jpeg.index(b"\xff\xc0")
    for height, width in ((0, 320), (240, 0), (65_535, 65_535), (1, 1), (5000, 5000)):
        told = jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]
        yield f"jpeg that says {width} x {height}", told
    for components in (0, 2, 4, 255):
        yield (
            f"jpeg of {components} components",
            jpeg[: frame + 9] + bytes((components,)) + jpeg[frame + 10 :],
        )
    for size in (0, 4, len(webp), 2**31, 2**32 - 1):
        yield f"webp that says {size} bytes", webp[:4] + struct.pack("<I", size) + webp[8:]
    for value in (0, 1, 2**16, 2**32 - 1):
        yield f"png chunk of {value} bytes", png[:33] + struct.pack(">I", value) + png[37:]
    yield "jpeg called png", b"\x89PNG\r\n\x1a\n" + jpeg
    yield "png called jpeg", b"\xff\xd8\xff" + png


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Much from few bytes: within the limits, and far beyond."""
    for side in (4_999, 5_000, 5_001, 20_000, 60_000):
        pixels = zlib.compress(bytes(999), 9) if side > 5_000 else _flat_rows(side)
        yield f"png of {side} x {side}", make_png(side, side, pixels)
    yield "png 25 megapixels in one row", make_png(25_000_000, 1, zlib.compress(bytes(75_000_001), 9))
    yield "png 25 megapixels in one column", make_png(1, 25_000_000, zlib.compress(bytes(100_000_000), 9))
    yield "png with far more behind its pixels", make_png(64, 64, zlib.compress(bytes(300_000_000), 9))
    for kind in ("JPEG", "WEBP"):
        yield f"{kind} of 25 megapixels", encode(Image.new("RGB", (5000, 5000), (90, 120, 30)), kind)
    yield "JPEG of 60 megapixels", encode(Image.new("L", (8000, 7500)), "JPEG")
    yield "lossless WEBP of 25 megapixels", encode(Image.new("RGB", (5000, 5000)), "WEBP", lossless=True)
    alpha = Image.new("RGBA", (5000, 5000), (9, 9, 9, 9))
    yield "png of 25 megapixels with alpha", encode(alpha, "PNG", compress_level=1)
    yield "png of 25 megapixels in 16 bit", encode(Image.new("I;16", (5000, 5000)), "PNG", compress_level=1)
    canvas = bytearray(encode(Image.new("RGBA", (64, 64)), "WEBP"))
    if canvas[12:16] == b"VP8X":
        canvas[24:30] = b"\xff\x3f\0\xff\x3f\0"
    yield "webp with a huge canvas", bytes(canvas)


def _flat_rows(side: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(side * 3 + 1)) for _ in range(side)]) + packer.flush()


def _polyglots() -> Iterator[tuple[str, bytes]]:
    tails = {
        "page": b"<html><script>alert(1)</script></html>",
        "zip": b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18),
        "php": b"<?php system($_GET['x']); ?>",
        "script": b"*/=1;alert(1)//",
    }
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encode(make_scene(seed=5), kind)
        for name, tail in tails.items():
            yield f"{kind} with a {name} behind", data + tail
            yield f"{kind} behind a {name}", tail + data
    jpeg = encode(make_scene(seed=6), "JPEG")
    yield "jpeg with a page in a comment", jpeg[:2] + jpeg_segment(0xFE, tails["page"]) + jpeg[2:]
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


def _metadata() -> Iterator[tuple[str, bytes]]:
    """Nested, endless, compressed and contradictory."""
    png, jpeg = encode(make_scene(seed=8), "PNG"), encode(make_scene(seed=8), "JPEG")
    webp = encode(make_scene(seed=8), "WEBP", exif=make_exif(3))
    bomb = zlib.compress(bytes(200_000_000), 9)
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        yield f"png with a {kind.decode()} bomb", png[:33] + png_chunk(kind, head + bomb) + png[33:]
        many = png_chunk(kind, head + zlib.compress(bytes(1_000_000), 9)) * 100
        yield f"png with a hundred {kind.decode()}", png[:33] + many + png[33:]
    loop = (
        b"Exif\0\0MM\0*\0\0\0\x08"
        + struct.pack(">H", 1)
        + struct.pack(">HHLL", 0x8769, 4, 1, 8)
        + b"\0\0\0\x08"
    )
    yield "jpeg with exif that points to itself", jpeg[:2] + jpeg_segment(0xE1, loop) + jpeg[2:]
    wide = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + struct.pack(">HHLL", 0x010E, 2, 60_000, 8) * 5000
    yield "jpeg with endless exif", jpeg[:2] + jpeg_segment(0xE1, wide) + jpeg[2:]
    yield "jpeg in the comment of a jpeg", jpeg[:2] + jpeg_segment(0xFE, jpeg[:60_000]) + jpeg[2:]
    nested = jpeg
    for _ in range(4):
        nested = jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + nested[:50_000]) + jpeg[2:]
    yield "jpegs in the exif of jpegs", nested
    for value in (0, 9, 65_535):
        yield f"jpeg turned {value}", encode(make_scene(), "JPEG", exif=make_exif(value))
    yield "webp with exif cut short", webp.replace(b"MM\0*", b"MM\0")
    index = b"MPF\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + struct.pack(">HHLL", 0xB002, 7, 2**31, 8)
    yield "jpeg with a false index of pictures", jpeg[:2] + jpeg_segment(0xE2, index) + jpeg[2:]


def _odd_but_whole() -> Iterator[tuple[str, bytes]]:
    yield from make_good_ones().items()
    frames = [make_scene(seed=seed) for seed in (2, 3)]
    for kind in ("PNG", "WEBP", "GIF"):
        yield f"animated {kind}", encode(make_scene(), kind, save_all=True, append_images=frames)
    yield "several pictures in one jpeg", encode(make_scene(), "MPO", save_all=True, append_images=frames)
    for kind in ("BMP", "TIFF", "ICO", "PDF", "GIF", "AVIF", "JPEG2000", "TGA", "PPM"):
        yield f"{kind} file", encode(make_scene(64, 48), kind)
    yield "one pixel", encode(Image.new("RGB", (1, 1)), "PNG")
    yield "one row of 60,000", encode(Image.new("RGB", (60_000, 1)), "JPEG")
    yield "one column of 16,000", encode(Image.new("RGB", (1, 16_000)), "WEBP")


def _parts_and_passes() -> Iterator[tuple[str, bytes]]:
    jpeg, png, webp = (encode(make_scene(seed=9), kind) for kind in ("JPEG", "PNG", "WEBP"))
    for scans in (90, 101, 1_000, 20_000):
        yield f"jpeg of 25 megapixels and {scans} scans", make_scans(5000, scans)
    yield "jpeg of 25 megapixels and 90 refining scans", make_scans(5000, 90, refine=True)
    yield "jpeg of a million segments", jpeg[:2] + jpeg_segment(0xE5) * 1_000_000 + jpeg[2:]
    yield "jpeg of a million restarts", jpeg[:-2] + b"\xff\xd0" * 1_000_000 + jpeg[-2:]
    yield "png of a million empty chunks", png[:33] + png_chunk(b"IDAT") * 1_000_000 + png[33:]
    yield "png of a million notes", png[:33] + png_chunk(b"tEXt") * 1_000_000 + png[33:]
    body = webp[12:] + (b"JUNK" + bytes(4)) * 1_000_000
    yield "webp of a million chunks", b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    frame = jpeg.index(b"\xff\xc0")
    for marker in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCD):
        yield f"jpeg of kind {marker:x}", jpeg[: frame + 1] + bytes((marker,)) + jpeg[frame + 2 :]


def _not_images() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "zeros", bytes(100_000)
    yield "too many bytes", b"\xff\xd8\xff" + bytes(21 * 2**20)
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x24\0\0\0WEBPVP8 ", b"GIF89a", b"BM"):
        for size in (0, 10, 10_000):
            yield f"{magic[:4]!r} and {size} random bytes", magic + seeded(magic, size).randbytes(size)
