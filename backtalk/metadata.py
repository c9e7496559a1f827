"""Cut metadata out of JPEG, PNG and WebP files and leave the compressed pixels as they are.

What goes: EXIF (place, camera, owner), XMP, IPTC, comments, embedded thumbnails, colour profiles (decoding
ignores them), and whatever follows the end of the picture. What stays is what decoding needs.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from backtalk.errors import RefusedImage


def strip_metadata(data: bytes, format: str) -> bytes:  # noqa: A002 - as Pillow calls it
    """Return the same picture without metadata; its orientation must be kept elsewhere.

    Args:
        data: a file that `images.decode` takes.
        format: JPEG, PNG or WEBP.

    Raises:
        RefusedImage: `truncated`: it ends before its end marker, or some part is shorter than it says.
    """
    cut = {"JPEG": _strip_jpeg, "PNG": _strip_png, "WEBP": _strip_webp}[format]
    try:
        return cut(data)
    except (struct.error, IndexError):  # a length that leads past the end
        raise RefusedImage(
            "truncated", "The image breaks off before its end: send the whole file again."
        ) from None


# --- JPEG: ITU-T T.81, annex B -----------------------------------------------------------------
#: A marker that opens a segment or ends the image. Stuffed zeros, restarts and reserved codes are data, as
#: libjpeg has it. The pattern begins with one literal byte, which `re` finds fast.
_MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _APP0, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE
_CUT: Final = frozenset({_COM, *range(0xE1, 0xF0)})  # comments, APP1 to APP15


def _strip_jpeg(data: bytes) -> bytes:
    out = [b"\xff\xd8"]
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == _EOI:
            return b"".join((*out, b"\xff\xd9"))
        if marker == _SOI:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position : position + length]
        if len(segment) < length or length < 2:
            raise IndexError
        position += length
        if kept := _keep_segment(marker, segment):
            out.append(bytes((0xFF, marker)) + kept)
        if marker == _SOS:
            scan_end = _MARKER.search(data, position)
            end = scan_end.start() if scan_end else len(data)
            out.append(data[position:end])
            position = end
    raise IndexError


def _keep_segment(marker: int, segment: bytes) -> bytes | None:
    """A segment without its marker; None to cut it. Two of APPn tell decoders about colours: they stay."""
    if marker == _APP0:
        if len(segment) < 16 or segment[2:7] != b"JFIF\0":
            return None
        return b"\x00\x10" + segment[2:14] + b"\0\0"  # without its thumbnail
    if marker == _APP14:
        return b"\x00\x0e" + segment[2:14] if len(segment) >= 14 and segment[2:7] == b"Adobe" else None
    return None if marker in _CUT else segment


# --- PNG: W3C, Portable Network Graphics, section 5 --------------------------------------------
_PNG_KEPT: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _strip_png(data: bytes) -> bytes:
    out = [data[:8]]
    position = 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise IndexError
        if kind in _PNG_KEPT:
            out.append(data[position:end])
        if kind == b"IEND":
            return b"".join(out)
        position = end
    raise IndexError


# --- WebP: RFC 9649 ----------------------------------------------------------------------------
_WEBP_KEPT: Final = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH")
_WEBP_ALPHA: Final = 0x10


def _strip_webp(data: bytes) -> bytes:
    body = b"".join(_keep_webp_chunks(data))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _keep_webp_chunks(data: bytes) -> Iterator[bytes]:
    position = 12
    end = min(len(data), struct.unpack_from("<I", data, 4)[0] + 8)
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        start, position = position + 8, position + 8 + length + (length & 1)
        if start + length > end:
            raise IndexError
        payload = data[start:position].ljust(position - start, b"\0")  # libwebp reads the padding, too
        if kind == b"VP8X":  # its flags announce chunks that go
            payload = bytes((payload[0] & _WEBP_ALPHA,)) + payload[1:]
        if kind in _WEBP_KEPT:
            yield struct.pack("<4sI", kind, length) + payload
