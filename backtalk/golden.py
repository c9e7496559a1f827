"""The golden images of a model: what every version of it is verified on, before anybody is served by it."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ArtefactInvalid
from backtalk.images import MAX_STORED_PIXELS, decode, to_input
from backtalk.intervals import clopper_pearson_upper
from backtalk.sums import write_atomically

CONFIDENCE = 0.95  # that too few are alike, before a version or a file is refused


@dataclass(frozen=True, eq=False)
class Golden:
    """K images, as the backbone takes them and as they came."""

    inputs: NDArray[np.uint8]  # (K, S, S, 3)
    encoded: tuple[bytes, ...]  # K JPEG or PNG files, upright without their metadata

    def fit(self, size: int) -> Self:
        """The same images for a backbone that takes another size."""
        if self.inputs.shape[1] == size:
            return self
        pictures = (decode(data, max_bytes=len(data), max_pixels=MAX_STORED_PIXELS) for data in self.encoded)
        return replace(self, inputs=np.stack([to_input(one.pixels, size) for one in pictures]))


def write_golden(path: Path, inputs: NDArray[np.uint8], encoded: Sequence[bytes]) -> None:
    """Write `golden.npz`, atomically.

    `serve_bytes` decodes JPEG and PNG and knows no orientation, so choose images that are upright as they
    are. Other formats are kept, and left out of its check.

    Args:
        inputs: (K, S, S, 3), from `images.to_input`.
        encoded: K files, in the same order.
    """
    if len(inputs) != len(encoded) or not len(inputs):
        raise ValueError("golden images need one file for each input, and at least one")
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    flat = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    buffer = BytesIO()
    np.savez(buffer, inputs=np.asarray(inputs, np.uint8), bytes_flat=flat, offsets=offsets)
    write_atomically(path, buffer.getvalue())


def read_golden(path: Path) -> Golden:
    """Read what `write_golden` wrote.

    Raises:
        ArtefactInvalid: the file is missing, damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            inputs, flat, offsets = stored["inputs"], stored["bytes_flat"].tobytes(), stored["offsets"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactInvalid(f"{path} holds no golden images that can be read: {error}") from None
    encoded = tuple(flat[a:b] for a, b in pairwise(offsets))
    if inputs.dtype != np.uint8 or inputs.ndim != 4 or len(encoded) != len(inputs) or not encoded:
        raise ArtefactInvalid(f"{path} holds no golden images: {inputs.shape} inputs, {len(encoded)} files.")
    return Golden(inputs, encoded)


def find_alike(found: NDArray[np.float32], expected: NDArray[np.float32], narrow: float) -> NDArray[np.bool_]:
    """Images with the same best label, or where the two best of `expected` are closer than `narrow`.

    Args:
        found, expected: scores (N, C).
    """
    best = np.sort(expected, axis=1)
    tie = best[:, -1] - best[:, -2] < narrow if expected.shape[1] > 1 else np.ones(len(expected), np.bool_)
    alike: NDArray[np.bool_] = (found.argmax(axis=1) == expected.argmax(axis=1)) | tie
    return alike


def are_too_few(alike: NDArray[np.bool_], fewest: float) -> bool:
    """Whether so many alike (N,) speak against a share of `fewest` of all images (Clopper-Pearson).

    Of 32 golden images two are 6 %: a plain share of them would refuse what is sound.
    """
    return bool(clopper_pearson_upper(alike.sum(), len(alike), CONFIDENCE) < fewest)
