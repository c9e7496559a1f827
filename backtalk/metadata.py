"""Cut metadata out of JPEG, PNG and WebP files and leave the compressed pixels as they are.

What goes: EXIF (place, camera, owner), XMP, IPTC, comments, embedded thumbnails, colour profiles (decoding
ignores them), and whatever follows the end of the picture. What stays is what decoding needs.

It runs before any decoder sees the file. So none unpacks a compressed profile or comment, and a file with
more parts or passes than any picture needs is refused while it has cost next to nothing.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from backtalk.errors import RefusedImage, UnsupportedImage
from backtalk.exif import find_orientation, list_other_pictures

#: Segments of a JPEG, chunks of a PNG or WebP. A PNG of 20 MB in chunks of 1 KB has as many.
MAX_PARTS: Final = 20_000
#: Passes over all pixels of a JPEG. Encoders write about ten; each costs as much as a whole picture may.
MAX_SCANS: Final = 100


@dataclass(slots=True)
class Cut:
    """A file without its metadata, and what was read of it before it went."""

    data: bytes = b""
    orientation: int = 1  # EXIF, 1 to 8
    animated: bool = False
    several: bool = False  # a JPEG with more than previews behind its first picture
    size: tuple[int, int] | None = None  # width and height, where the container told them in passing


def cut_metadata(data: bytes, format: str) -> Cut:  # noqa: A002 - as Pillow calls it
    """Take a file apart and join again what decoding needs.

    Args:
        data: a file that begins as one of `format`.
        format: JPEG, PNG or WEBP.

    Raises:
        RefusedImage: `truncated`: it ends before its end marker, or some part is shorter than it says.
            `too-many-parts`: more segments, chunks or scans than any picture needs.
        UnsupportedImage: a JPEG of a kind that no browser shows either.
    """
    take_apart: Callable[[bytes, Cut], bytes] = {"JPEG": _cut_jpeg, "PNG": _cut_png, "WEBP": _cut_webp}[
        format
    ]
    cut = Cut()
    try:
        cut.data = take_apart(data, cut)
    except (struct.error, IndexError):  # a length that leads past the end
        raise RefusedImage(
            "truncated", "The image breaks off before its end: send the whole file again."
        ) from None
    return cut


def strip_metadata(data: bytes, format: str) -> bytes:  # noqa: A002
    """The same picture without metadata; its orientation must be kept elsewhere. See `cut_metadata`."""
    return cut_metadata(data, format).data


def _count(parts: int, most: int) -> int:
    if parts >= most:
        raise RefusedImage(
            "too-many-parts", f"The image is stored in more than {most:,} parts: save it anew and send that."
        )
    return parts + 1


# --- JPEG: ITU-T T.81, annex B -----------------------------------------------------------------
#: A marker that opens a segment or ends the image. Stuffed zeros, restarts and reserved codes are data, as
#: libjpeg has it. The pattern begins with one literal byte, which `re` finds fast.
_MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_CUT: Final = frozenset({_COM, *range(0xE1, 0xF0)})  # comments, APP1 to APP15
#: Frames that are neither baseline, extended nor progressive. With arithmetic coding a few bytes may stand
#: for any amount of work.
_ODD_FRAMES: Final = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APPLE_GAIN_MAP: Final = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_ULTRA_HDR: Final = b' hdrgm:Version="'


def _cut_jpeg(data: bytes, cut: Cut) -> bytes:
    out = [b"\xff\xd8"]
    position, parts, scans, notes = 2, 0, 0, _Notes()
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == _EOI:
            notes.tell(cut, data)
            return b"".join((*out, b"\xff\xd9"))
        parts = _count(parts, MAX_PARTS)
        if marker == _SOI:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position : position + length]
        if len(segment) < length or length < 2:
            raise IndexError
        position += length
        notes.read(marker, segment)
        if kept := _keep_segment(marker, segment):
            out.append(bytes((0xFF, marker)) + kept)
        if marker == _SOS:
            scans = _count(scans, MAX_SCANS)
            scan_end = _MARKER.search(data, position)
            end = scan_end.start() if scan_end else len(data)
            out.append(data[position:end])
            position = end
    raise IndexError


class _Notes:
    """What a JPEG's metadata says about its pictures."""

    def __init__(self) -> None:
        self._exif: bytes | None = None
        self._others: list[int] = []
        self._ultra_hdr = False

    def read(self, marker: int, segment: bytes) -> None:
        """One segment, its length still before it."""
        if marker in _ODD_FRAMES:
            raise UnsupportedImage(
                "unsupported-format",
                "JPEG with arithmetic coding, lossless or hierarchical is not taken: save it as plain JPEG.",
            )
        if marker == _APP1 and self._exif is None and segment[2:8] == b"Exif\0\0":
            self._exif = segment[8:]
        elif marker == _APP1:
            self._ultra_hdr = self._ultra_hdr or _ULTRA_HDR in segment
        elif marker == _APP2 and segment[2:6] == b"MPF\0":
            self._others = self._others or list_other_pictures(segment[6:])

    def tell(self, cut: Cut, data: bytes) -> None:
        cut.orientation = find_orientation(self._exif or b"")
        cut.several = bool(self._others) and not self._is_one_picture(data)

    def _is_one_picture(self, data: bytes) -> bool:
        """Whether all that a multi-picture file adds to its first picture is previews or a gain map.

        Many cameras and phones write such files (CIPA DC-007, "Baseline MP"); their owners know one picture.
        """
        previews = all(kind >> 16 == 1 for kind in self._others)
        gain_map = self._others == [0] and _APPLE_GAIN_MAP in data
        return previews or gain_map or self._ultra_hdr


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
_PNG_ANIMATED: Final = (b"acTL", b"fcTL", b"fdAT")


def _cut_png(data: bytes, cut: Cut) -> bytes:
    out = [data[:8]]
    position, parts = 8, 0
    while position < len(data):
        parts = _count(parts, MAX_PARTS)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise IndexError
        if kind in _PNG_KEPT:
            out.append(data[position:end])
        elif kind == b"eXIf":
            cut.orientation = find_orientation(data[position + 8 : end - 4])
        cut.animated = cut.animated or kind in _PNG_ANIMATED
        if kind == b"IEND":
            return b"".join(out)
        position = end
    raise IndexError


# --- WebP: RFC 9649 ----------------------------------------------------------------------------
_WEBP_KEPT: Final = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH")
_WEBP_ANIMATED: Final = (b"ANIM", b"ANMF")
_WEBP_ALPHA: Final = 0x10
_WEBP_ANIMATION: Final = 0x02


def _cut_webp(data: bytes, cut: Cut) -> bytes:
    body = b"".join(_keep_webp_chunks(data, cut))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _keep_webp_chunks(data: bytes, cut: Cut) -> Iterator[bytes]:
    position, parts = 12, 0
    end = struct.unpack_from("<I", data, 4)[0] + 8
    if end > len(data):
        raise IndexError
    while position + 8 <= end:
        parts = _count(parts, MAX_PARTS)
        kind, length = struct.unpack_from("<4sI", data, position)
        start, position = position + 8, position + 8 + length + (length & 1)
        if start + length > end:
            raise IndexError
        payload = data[start:position].ljust(position - start, b"\0")  # libwebp reads the padding, too
        if kind == b"VP8X":  # its flags announce chunks that go
            cut.animated = cut.animated or bool(payload[0] & _WEBP_ANIMATION)
            payload = bytes((payload[0] & _WEBP_ALPHA,)) + payload[1:]
        if kind == b"EXIF":
            cut.orientation = find_orientation(payload)
        cut.animated = cut.animated or kind in _WEBP_ANIMATED
        if kind in _WEBP_KEPT:
            cut.size = cut.size or _find_webp_size(kind, payload)
            yield struct.pack("<4sI", kind, length) + payload


def _find_webp_size(kind: bytes, payload: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas (RFC 9649, 2.7), a lossy frame (RFC 6386, 9.1) or a lossless one."""
    if kind == b"VP8X":
        return int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<2H", payload, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", payload, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
