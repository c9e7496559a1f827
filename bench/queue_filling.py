"""A long queue and the traffic around it, in seconds: set-based SQL by the owner, vectors by COPY.

The rows are what the use cases would have written, without their checks and without pixels: one picture a
prediction, thirty days of them, of which some were corrected, confirmed or drawn, some are answered, and
`pending` wait.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import select

from backtalk import upkeep
from backtalk.db import get_plain_url
from backtalk.heads import Head
from backtalk.system import System
from backtalk.tables import Model, Version
from tests import factories, showroom

LABELS = ("cat", "dog", "fox", "hen", "owl", "yak", "zebra")
PREDICTIONS = 300_000
BASE = 10_000  # pictures of the base folder
WIDTH = 1280
_DIRECTIONS = 256  # that pictures look into, with noise
_CHUNK = 5_000
_SQL = Path(__file__).with_name("queue.sql")


def fill_queue(
    system: System, owner_url: str, pending: int, *, predictions: int = PREDICTIONS, base: int = BASE
) -> None:
    """A model `animals` with versions and their heads, and `pending` open items among its predictions."""
    with system.db.transaction() as session:
        factories.make_backbone(session, width=WIDTH)
        model = factories.make_model(session, "animals", labels=list(LABELS))
        showroom.add_history(session, model)
        number, live = model.id, model.live_version
        for version in session.scalars(select(Version).where(Version.model_id == model.id)):
            _write_head(system, model, version)
    values = {
        "model": number,
        "live": live,
        "labels": list(LABELS),
        "total": predictions,
        "base": base,
        "every": predictions // pending,
        "groups": max(pending // 4, 1),
    }
    with psycopg.connect(get_plain_url(owner_url), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # keys fit, since all is made here
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET work_mem = '256MB'")
        for statement in _SQL.read_text(encoding="utf-8").split(";\n"):
            connection.execute(statement, values)
        _copy_embeddings(connection)
        connection.execute("VACUUM ANALYZE")
    upkeep.keep_days(system)  # as beat has it done


def _write_head(system: System, model: Model, version: Version) -> None:
    """A head of its own: versions agree on most pictures, and differ on some."""
    rng = np.random.default_rng(version.number)
    shared = np.random.default_rng(0).normal(size=(len(LABELS), WIDTH))
    weights = (shared + 0.3 * rng.normal(size=shared.shape)) / np.sqrt(WIDTH)
    folder = system.versions.resolve(version.path)
    folder.mkdir(parents=True, exist_ok=True)
    bias = np.zeros(len(LABELS), np.float32)
    head = Head(weights.astype(np.float32), bias, 1.0, tuple(model.labels), version.backbone_digest)
    head.save(folder / "head.npz")


# --- embeddings --------------------------------------------------------------------------------
def _copy_embeddings(connection: psycopg.Connection[Any]) -> None:
    """Of all pictures that wait or have a label."""
    ids = [row[0] for row in connection.execute("SELECT image FROM pictures ORDER BY image").fetchall()]
    statement = "COPY embeddings (image_id, backbone_digest, vector) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(statement) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for rows in _pack(ids):
            copy.write(rows)
        copy.write(b"\xff\xff")


def _pack(ids: list[UUID]) -> Iterator[bytes]:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((_DIRECTIONS, WIDTH), np.float32)
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("id_bytes", ">i4"),
            ("id", "V16"),
            ("digest_bytes", ">i4"),
            ("digest", "S64"),
            ("vector_bytes", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2", (WIDTH,)),
        ]
    )
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows = np.zeros(len(chunk), row)
        rows["fields"], rows["id_bytes"], rows["digest_bytes"] = 3, 16, 64
        rows["vector_bytes"], rows["dimensions"] = 4 + 2 * WIDTH, WIDTH
        rows["id"] = np.frombuffer(b"".join(one.bytes for one in chunk), "V16")
        rows["digest"] = factories.BACKBONE_DIGEST.encode()
        rows["vector"] = _draw(rng, directions, len(chunk))
        yield rows.tobytes()


def _draw(rng: np.random.Generator, directions: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    noise = rng.standard_normal((n, WIDTH), np.float32)
    return directions[rng.integers(len(directions), size=n)] + noise
