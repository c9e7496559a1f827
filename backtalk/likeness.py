"""Which images look alike, whatever their size and compression."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def _cosines(size: int, count: int) -> NDArray[np.float64]:
    """(count, size): the first rows of the DCT-II matrix."""
    k, n = np.arange(count)[:, None], np.arange(size)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * size))


_HASH_SIDE: Final = 32
_HASH_READS: Final = 512  # rows or columns that are enough: 16 × 16 pixels for each that is hashed
_DCT: Final = _cosines(_HASH_SIDE, 8)


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """64-bit DCT hash as a signed integer: near-duplicates differ in few bits.

    A bit says whether one of the 8 × 8 lowest frequencies of the 32 × 32 grey image is above their median.
    """
    step = max(1, min(pixels.shape[:2]) // _HASH_READS)
    image = Image.fromarray(pixels[::step, ::step]).convert("L")
    grey = image.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    low = _DCT @ np.asarray(grey, dtype=np.float64) @ _DCT.T
    low = low.round(3)  # else the last bits of a sum decide in flat images
    ordered = np.sort(low, axis=None)
    bits = low > (ordered[31] + ordered[32]) / 2  # the median; np.median takes ten times as long
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def hamming(a: int, b: int) -> int:
    """In how many of the 64 bits two hashes differ."""
    return ((a ^ b) & (2**64 - 1)).bit_count()


def hamming_to_many(one: int, many: NDArray[np.int64]) -> NDArray[np.uint8]:
    """In how many bits one hash differs from each of (N,) hashes."""
    return np.bitwise_count((many ^ np.int64(one)).view(np.uint64))
