"""What versions say about many images at once, from stored embeddings; remembered while there is room.

Neither a version nor an embedding ever changes, so what was read once holds. Vectors come as one value, not
row by row: for thousands of images that is most of the time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backtalk.artefacts import HEAD
from backtalk.champions import locate
from backtalk.db import get_driver
from backtalk.errors import ArtefactInvalid
from backtalk.evidence import load_head
from backtalk.heads import Head
from backtalk.system import System
from backtalk.tables import Version

MOST_BYTES = 16 * 2**20  # of a process that aims at 200 MB
_BYTES_AN_ID = 200
_AT_ONCE = 20_000  # vectors in one value of Postgres, which holds a gigabyte at most

_File = tuple[str, int, int]  # path, inode, time of change: a file that was replaced is another one


@dataclass(frozen=True, eq=False)
class Readings:
    """Scores of one version, (N, C), and which row is whose."""

    rows: dict[str, int]
    scores: NDArray[np.float32]

    @property
    def size(self) -> int:
        return self.scores.nbytes + _BYTES_AN_ID * len(self.rows)

    @classmethod
    def none(cls, head: Head) -> "Readings":
        return cls({}, np.zeros((0, len(head.labels)), np.float32))

    def joined(self, ids: Sequence[str], scores: NDArray[np.float32]) -> "Readings":
        rows = {image_id: len(self.rows) + row for row, image_id in enumerate(ids)}
        return Readings(self.rows | rows, np.concatenate([self.scores, scores]))


_remembered: OrderedDict[_File, Readings] = OrderedDict()
_lock = Lock()


def read_scores(
    session: Session, system: System, version: Version, image_ids: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Scores by image, in the order of the labels; images that its backbone has not seen are left out.

    Raises:
        ArtefactInvalid: the version's head is gone or damaged.
    """
    file = _identify(locate(system, version) / HEAD)
    with _lock:
        known = _remembered.get(file)
    unread = [one for one in image_ids if known is None or one not in known.rows]
    if known is None or unread:
        head = load_head(system, version)
        found, vectors = _load_vectors(session, head, unread)
        known = (known or Readings.none(head)).joined(found, head.scores(vectors))
    _remember(file, known)
    return {one: known.scores[known.rows[one]] for one in image_ids if one in known.rows}


def _identify(path: Path) -> _File:
    try:
        found = path.stat()
    except OSError as error:
        raise ArtefactInvalid(f"{path} holds no head that can be read: {error}") from None
    return str(path), found.st_ino, found.st_mtime_ns


def _remember(file: _File, readings: Readings) -> None:
    """The least lately read are forgotten first."""
    with _lock:
        _remembered[file] = readings
        _remembered.move_to_end(file)
        while sum(one.size for one in _remembered.values()) > MOST_BYTES:
            _remembered.popitem(last=False)


def _load_vectors(
    session: Session, head: Head, image_ids: Sequence[str]
) -> tuple[list[str], NDArray[np.float16]]:
    """Those that are there."""
    width = head.weights.shape[1]
    row = np.dtype([("place", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("vector", ">f2", (width,))])
    found: list[str] = []
    vectors = [np.zeros((0, width), np.float16)]
    for start in range(0, len(image_ids), _AT_ONCE):
        part = image_ids[start : start + _AT_ONCE]
        data = _fetch(session, head.backbone_digest, part)
        rows = np.frombuffer(data, row) if len(data) % row.itemsize == 0 else np.zeros(1, row)
        if not (rows["dimensions"] == width).all():
            raise ArtefactInvalid(f"A head reads {width} numbers, and the embeddings are of another width.")
        found += [part[place - 1] for place in rows["place"]]
        vectors.append(rows["vector"].astype(np.float16))
    return found, np.concatenate(vectors)


def _fetch(session: Session, backbone_digest: str, image_ids: Sequence[str]) -> bytes:
    with get_driver(session.connection()).cursor(binary=True) as cursor:
        values: tuple[Any, ...] = (f"{{{','.join(image_ids)}}}", backbone_digest)
        fetched = cursor.execute(_VECTORS, values).fetchone()
    return bytes(fetched[0]) if fetched and fetched[0] else b""


# As PostgreSQL's binary formats have it: big-endian, a half vector with its number of dimensions before it.
_VECTORS = """
SELECT string_agg(int4send(w.place::int4) || halfvec_send(e.vector), ''::bytea)
FROM unnest(%s::text::uuid[]) WITH ORDINALITY AS w (image_id, place)
JOIN embeddings e ON e.image_id = w.image_id AND e.backbone_digest = %s
"""
