"""No file costs more than its size and pixels allow: parts and passes are bounded before decoding."""

import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from backtalk import images
from backtalk.errors import ImageTooLarge, RefusedImage, UnsupportedImage
from backtalk.metadata import MAX_PARTS, MAX_SCANS
from tests import bad_images
from tests.bad_images import encode, jpeg_segment, make_scene, png_chunk


def refusal(data: bytes) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        images.inspect(data)
    return caught.value


def put_into_png(data: bytes, *chunks: bytes) -> bytes:
    """Behind the header."""
    return data[:33] + b"".join(chunks) + data[33:]


def test_passes_over_a_jpeg_are_bounded() -> None:
    assert images.decode(bad_images.make_scans(64, MAX_SCANS - 20)).pixels.shape == (64, 64, 3)
    assert refusal(bad_images.make_scans(64, MAX_SCANS + 1)).reason == "too-many-parts"


def test_segments_of_a_jpeg_and_chunks_of_a_png_are_bounded() -> None:
    jpeg, png, webp = (encode(make_scene(), kind) for kind in ("JPEG", "PNG", "WEBP"))
    assert refusal(jpeg[:2] + jpeg_segment(0xE5) * MAX_PARTS + jpeg[2:]).reason == "too-many-parts"
    assert refusal(put_into_png(png, png_chunk(b"teXt") * MAX_PARTS)).reason == "too-many-parts"
    empty = b"JUNK" + bytes(4)
    body = webp[12:] + empty * MAX_PARTS
    assert refusal(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body).reason == "too-many-parts"


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_kinds_of_jpeg_whose_cost_no_byte_count_bounds_are_refused(marker: int) -> None:
    data = encode(make_scene(), "JPEG")
    at = data.index(b"\xff\xc0")
    error = refusal(data[:at] + bytes((0xFF, marker)) + data[at + 2 :])
    assert isinstance(error, UnsupportedImage)
    assert error.reason == "unsupported-format"


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_compressed_metadata_is_never_unpacked(kind: bytes) -> None:
    method = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
    bomb = png_chunk(kind, b"word" + method + zlib.compress(bytes(80_000_000), 9))
    data = put_into_png(encode(make_scene(), "PNG"), bomb)
    plain = images.decode(encode(make_scene(), "PNG"))
    assert np.array_equal(images.decode(data).pixels, plain.pixels)
    assert len(images.decode(data).data) < len(data) - len(bomb) + 1


def test_orientation_is_found_wherever_a_png_keeps_it() -> None:
    plain = encode(make_scene(), "PNG")
    tag = png_chunk(b"eXIf", bad_images.make_exif(6).removeprefix(b"Exif\0\0"))
    before, behind = put_into_png(plain, tag), plain[:-12] + tag + plain[-12:]
    assert images.inspect(before).orientation == images.inspect(behind).orientation == 6


def test_every_cut_of_an_exif_block_is_read_or_passed_over() -> None:
    block = bad_images.make_exif(8)
    data = encode(make_scene(), "JPEG")
    for kept in range(6, len(block) + 1):
        turned = data[:2] + jpeg_segment(0xE1, block[:kept]) + data[2:]
        assert images.inspect(turned).orientation in {1, 8}
    assert images.inspect(data[:2] + jpeg_segment(0xE1, block) + data[2:]).orientation == 8


def test_a_phone_jpeg_with_an_ultra_hdr_gain_map_is_one_picture() -> None:
    both = encode(make_scene(), "MPO", save_all=True, append_images=[make_scene(seed=2)])
    assert refusal(both).reason == "multi-picture"
    note = jpeg_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>')
    assert images.decode(both[:2] + note + both[2:]).pixels.shape == (240, 320, 3)


def test_a_webp_that_claims_more_than_it_has_is_truncated() -> None:
    data = bytearray(encode(make_scene(), "WEBP"))
    data[4:8] = struct.pack("<I", len(data))
    assert refusal(bytes(data)).reason == "truncated"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1"])
def test_converting_in_bands_changes_no_pixel(mode: str) -> None:
    """A picture of several bands against the same picture in one piece."""
    whole = make_scene(1500, 1400).convert(mode)
    if mode in {"RGBA", "LA"}:
        whole.putalpha(make_scene(1500, 1400, seed=3).convert("L"))
    pixels = images.decode(encode(whole, "PNG")).pixels
    layer = whole.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    assert np.array_equal(pixels, np.asarray(Image.alpha_composite(white, layer).convert("RGB")))


def test_large_pictures_take_turns_and_ordinary_ones_never_wait() -> None:
    turns = images.Turns(1)
    reached = threading.Event()
    with turns.take(images.LARGE_PIXELS + 1), turns.take(images.LARGE_PIXELS):
        waiting = threading.Thread(target=lambda: _take(turns, reached))
        waiting.start()
        assert not reached.wait(0.2)
    waiting.join(10)
    assert reached.is_set()


def _take(turns: images.Turns, reached: threading.Event) -> None:
    with turns.take(images.LARGE_PIXELS + 1):
        reached.set()


def test_pixels_are_counted_before_anything_is_decoded() -> None:
    bomb = bad_images.make_png(40_000, 40_000, zlib.compress(bytes(999)))
    column = bad_images.make_png(1, 65_536, zlib.compress(bytes(65_536 * 4), 9))
    for data in (bomb, column):
        with pytest.raises(ImageTooLarge) as caught:
            images.inspect(data)
        assert caught.value.reason == "too-many-pixels"
    assert images.decode(bad_images.make_png(1, 65_535, zlib.compress(bytes(65_535 * 4), 9))).height == 65_535
