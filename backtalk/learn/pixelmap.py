"""The pixels of a snapshot, decoded once by the same road as everything else, in one memory-mapped file.

`pixels-<snapshot digest>-<size>.u8` holds (N, S, S, 3) uint8, then a byte for each row, 1 where it could be
read, then the SHA-256 of what they were decoded from. It is written aside and renamed, so it appears whole or
not at all, and an attempt after a crash takes it over.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import ImageNotFound, RefusedImage
from backtalk.images import MAX_STORED_PIXELS, decode, to_input
from backtalk.store import ImageStore
from backtalk.sums import make_folder, sync_folder

Pixels = NDArray[np.uint8]  # (N, S, S, 3)
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Source:
    """An image in the store."""

    store_key: str
    orientation: int


@dataclass(frozen=True, eq=False)
class PixelMap:
    path: Path
    size: int
    readable: NDArray[np.bool_]  # (N,): the others are black

    def open(self) -> Pixels:
        """Mapped copy-on-write: nothing is read before it is used, and nothing that is written stays."""
        shape = (len(self.readable), self.size, self.size, 3)
        return np.memmap(self.path, np.uint8, "c", shape=shape)


def map_pixels(
    folder: Path,
    snapshot_digest: str,
    size: int,
    sources: Sequence[Source],
    images: ImageStore,
    *,
    threads: int,
    tell: Tell,
) -> PixelMap:
    """The map of these images, in their order: the one that is there, or a new one.

    Raises:
        OSError: the disk is full.
    """
    path = folder / f"pixels-{snapshot_digest}-{size}.u8"
    digest = sha256(json.dumps([[s.store_key, s.orientation] for s in sources]).encode()).digest()
    for left in folder.glob(".new-*"):  # by a killed attempt; one that still lives fails when it renames
        left.unlink(missing_ok=True)
    there = _find(path, digest, len(sources), size)
    if there is not None:
        return there
    make_folder(folder)
    aside = folder / f".new-{uuid4().hex}"
    try:
        readable = _decode_all(aside, digest, size, sources, images, threads, tell)
        aside.rename(path)
        sync_folder(folder)
    finally:
        aside.unlink(missing_ok=True)
    return PixelMap(path, size, readable)


def _find(path: Path, digest: bytes, count: int, size: int) -> PixelMap | None:
    """None: there is none, or it is of other sources."""
    try:
        with path.open("rb") as file:
            file.seek(count * size * size * 3)
            readable, rest = file.read(count), file.read(len(digest) + 1)
    except OSError:
        return None
    return PixelMap(path, size, np.frombuffer(readable, np.uint8) == 1) if rest == digest else None


def _decode_all(
    path: Path,
    digest: bytes,
    size: int,
    sources: Sequence[Source],
    images: ImageStore,
    threads: int,
    tell: Tell,
) -> NDArray[np.bool_]:
    """Pillow lets go of the interpreter while it decodes, so threads do."""
    count, room = len(sources), len(sources) * size * size * 3
    _reserve(path, room + count + len(digest))
    whole = np.memmap(path, np.uint8, "r+")
    whole[room + count :] = np.frombuffer(digest, np.uint8)
    pixels, readable = whole[:room].reshape(count, size, size, 3), whole[room : room + count].view(np.bool_)

    def read(row: int) -> None:
        try:
            data = images.get(sources[row].store_key)
            picture = decode(
                data,
                max_bytes=len(data),
                max_pixels=MAX_STORED_PIXELS,
                orientation=sources[row].orientation,
            )
        except (ImageNotFound, RefusedImage):
            return
        pixels[row] = to_input(picture.pixels, size)
        readable[row] = True

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for done, _ in enumerate(pool.map(read, range(count)), 1):
            if done % 16 == 0 or done == count:
                tell(done / count)
    whole.flush()
    return np.array(readable)


def _reserve(path: Path, size: int) -> None:
    """All of the room at once: a write to a mapped page that finds the disk full kills the process."""
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
