"""Predictions become rows: one statement, so one round trip and one commit, for each picture.

Nothing is read back first. The statement finds the image by its pixels or makes its row, adds the
embedding where it is new, the prediction, and the event of an audit, in one transaction.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg.adapt import Dumper
from psycopg.errors import UniqueViolation
from psycopg.pq import Format
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backtalk.db import Database, get_driver, new_id
from backtalk.errors import ClientRefTaken, Unavailable
from backtalk.events import AuditDrawn
from backtalk.failpoints import around_commit, failpoint
from backtalk.tables import Embedding, Prediction, Version

_ROUNDS = 5
_CLIENT_REF = "uq_predictions_client_ref"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recordable:
    """One answered picture, not yet written down."""

    prediction_id: UUID
    model_id: int
    version: int
    label: str
    scores: list[float]  # float32 values, in the order of the model's labels
    key_id: str | None
    audit: bool
    pixels_sha256: str
    perceptual_hash: int
    width: int
    height: int
    orientation: int
    store_key: str | None
    byte_size: int
    backbone_digest: str
    embedding: NDArray[np.float16]  # (D,)
    made_elsewhere: bool = False
    client_ref: str | None = None  # one prediction per key and reference

    def parameters(self) -> dict[str, object]:
        event = AuditDrawn(model_id=self.model_id, prediction_id=str(self.prediction_id))
        return {
            "prediction": self.prediction_id,
            "model": self.model_id,
            "version": self.version,
            "label": self.label,
            "scores": self.scores,
            "key": self.key_id,
            "audit": self.audit,
            "event": event.name,
            "payload": json.dumps(event.payload()) if self.audit else "{}",
            "image": new_id(),
            "pixels": self.pixels_sha256,
            "hash": self.perceptual_hash,
            "width": self.width,
            "height": self.height,
            "orientation": self.orientation,
            "store_key": self.store_key,
            "byte_size": self.byte_size,
            "backbone": self.backbone_digest,
            "vector": HalfVector(self.embedding),
            "elsewhere": self.made_elsewhere,
            "client_ref": self.client_ref,
        }


class _HalfvecDumper(Dumper):
    """Sends halfvec in its binary form; as text, 1,280 numbers cost more than the rest of the statement.

    Without a type number: that differs from database to database, and the server knows what it casts to.
    """

    format = Format.BINARY

    def dump(self, obj: HalfVector) -> bytes:
        return obj.to_binary()


psycopg.adapters.register_dumper(HalfVector, _HalfvecDumper)

# An image that is there keeps its row: writing it anew for each repeat would bloat the table. FOR KEY SHARE
# makes a deletion of that image wait for us or us for it, so that no tombstone gets an embedding. Where
# somebody else has just written the same pixels, this snapshot shows neither his row nor ours: then no
# prediction is inserted, and the caller asks again.
_RECORD = """
WITH made AS (
    INSERT INTO images
        (id, pixels_sha256, perceptual_hash, width, height, orientation, store_key, byte_size)
    VALUES (CAST(%(image)s AS uuid), CAST(%(pixels)s AS text), CAST(%(hash)s AS bigint), %(width)s,
            %(height)s, %(orientation)s, CAST(%(store_key)s AS text), %(byte_size)s)
    ON CONFLICT (pixels_sha256) DO UPDATE
        SET store_key = excluded.store_key, orientation = excluded.orientation,
            byte_size = excluded.byte_size
        WHERE images.store_key IS NULL AND excluded.store_key IS NOT NULL
    RETURNING id
), found AS (
    SELECT id FROM images WHERE pixels_sha256 = CAST(%(pixels)s AS text) FOR KEY SHARE
), image AS (
    SELECT id FROM made UNION SELECT id FROM found
), seen AS (
    INSERT INTO embeddings (image_id, backbone_digest, vector)
    SELECT id, CAST(%(backbone)s AS text), CAST(%(vector)s AS halfvec) FROM image
    ON CONFLICT DO NOTHING
), told AS (
    INSERT INTO predictions
        (id, model_id, version, image_id, label, scores, key_id, audit, made_elsewhere, client_ref)
    SELECT CAST(%(prediction)s AS uuid), CAST(%(model)s AS bigint), CAST(%(version)s AS bigint), id,
           CAST(%(label)s AS text), CAST(%(scores)s AS real[]), CAST(%(key)s AS text),
           CAST(%(audit)s AS boolean), CAST(%(elsewhere)s AS boolean), CAST(%(client_ref)s AS text)
    FROM image
    RETURNING audit
), rung AS (
    INSERT INTO outbox (event, payload)
    SELECT CAST(%(event)s AS text), CAST(%(payload)s AS jsonb) FROM told WHERE audit
)
SELECT count(*) FROM told
"""


def record_predictions(
    database: Database, records: Sequence[Recordable], within: Session | None = None
) -> None:
    """Write all of them down, or none.

    Args:
        within: the transaction that they become a part of; else they have one of their own.

    Raises:
        ClientRefTaken: the key has used that reference before.
        Unavailable: nothing was recorded, so nothing may be answered.
    """
    try:
        if within is not None:
            around_commit(within, "recording")
            _record_all(within, records)
            return
        failpoint("recording.before_commit")
        if len(records) == 1:  # autocommit: one round trip instead of three
            with database.statement() as connection:
                _record(connection, records[0])
        else:
            with database.transaction() as session:
                _record_all(session, records)
    except (psycopg.Error, SQLAlchemyError) as error:
        if isinstance(error, UniqueViolation) and error.diag.constraint_name == _CLIENT_REF:
            raise ClientRefTaken("This key has sent another prediction with that `client_ref`.") from error
        _log.warning("%d predictions could not be recorded: %s", len(records), error)
        raise Unavailable(
            "The prediction could not be recorded, so it is not answered. Try again."
        ) from error
    failpoint("recording.after_commit")


def _record_all(session: Session, records: Sequence[Recordable]) -> None:
    connection = get_driver(session.connection())
    # One order for everybody: two batches with the same pictures must not wait for each other.
    for record in sorted(records, key=lambda record: record.pixels_sha256):
        _record(connection, record)


def _record(connection: psycopg.Connection[Any], record: Recordable) -> None:
    parameters = record.parameters()
    for _ in range(_ROUNDS):
        (told,) = connection.execute(_RECORD, parameters).fetchone() or (0,)
        if told:
            return
    raise Unavailable(
        "The prediction could not be recorded: its image is being written and deleted. Try again."
    )


@dataclass(frozen=True, slots=True)
class Answered:
    """What a version said of one picture."""

    scores: list[float]  # float32 values, in the order of the model's labels
    embedding: list[float] | None  # float16 values; none: it was deleted since


def recall_answers(session: Session, prediction_ids: Sequence[UUID]) -> list[Answered]:
    """What was answered, in the order of the ids of predictions that were made here."""
    rows = session.execute(
        select(Prediction.id, Prediction.scores, Embedding.vector)
        .join(Version, (Version.model_id == Prediction.model_id) & (Version.number == Prediction.version))
        .outerjoin(
            Embedding,
            (Embedding.image_id == Prediction.image_id)
            & (Embedding.backbone_digest == Version.backbone_digest),
        )
        .where(Prediction.id.in_(prediction_ids))
    )
    # Numbers come as text, with the digits that they need: as doubles they are only near what they were.
    found = {
        row.id: Answered(
            scores=np.array(row.scores, np.float32).tolist(),
            embedding=None if row.vector is None else np.array(row.vector, np.float16).tolist(),
        )
        for row in rows
    }
    return [found[one] for one in prediction_ids]
