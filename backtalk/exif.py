"""The two facts that are read of a file's metadata: how the picture is turned, and which others it holds.

Read by hand and within bounds, so that no decoder ever parses the rest of what a stranger wrote there.
"""

import struct
from collections.abc import Iterator
from typing import Final

_ORIENTATION: Final = 0x0112
_MP_ENTRIES: Final = 0xB002
_WHOLE_NUMBERS: Final = {1: "B", 3: "H", 4: "L"}  # field types BYTE, SHORT, LONG
_MP_TYPE: Final = 0xFFFFFF  # of an entry's attribute
_MP_ENTRY_BYTES: Final = 16


def find_orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8, of the main picture; 1 where there is none that makes sense.

    Args:
        exif: a TIFF structure (TIFF 6.0, section 2), with or without `Exif\\0\\0` before it.
    """
    for order, tag, kind, count, value in _entries(exif.removeprefix(b"Exif\0\0")):
        if tag == _ORIENTATION and kind in _WHOLE_NUMBERS and count == 1:
            (found,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], value)
            return int(found) if 1 <= found <= 8 else 1
    return 1


def list_other_pictures(index: bytes) -> list[int]:
    """Types of the pictures behind the first one of a multi-picture JPEG (CIPA DC-007, MP index IFD)."""
    for order, tag, _, length, value in _entries(index):
        if tag == _MP_ENTRIES:
            (offset,) = struct.unpack(order + "L", value)
            entries = index[offset : offset + min(length, len(index))]
            starts = range(0, len(entries) - _MP_ENTRY_BYTES + 1, _MP_ENTRY_BYTES)
            return [struct.unpack_from(order + "L", entries, at)[0] & _MP_TYPE for at in starts][1:]
    return []


def _entries(tiff: bytes) -> Iterator[tuple[str, int, int, int, bytes]]:
    """Byte order, tag, type, count and the four bytes of value or offset, of each entry of the first IFD."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return
    (start,) = struct.unpack_from(order + "L", tiff, 4)
    head = tiff[start : start + 2]
    if len(head) < 2:
        return
    (count,) = struct.unpack(order + "H", head)
    body = tiff[start + 2 : start + 2 + 12 * count]
    for entry in struct.iter_unpack(order + "HHL4s", body[: len(body) // 12 * 12]):
        yield (order, *entry)
