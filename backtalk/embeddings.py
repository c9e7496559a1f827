"""Embeddings in Postgres: written as they are made, read back in bulk as binary COPY."""

import logging
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from sqlalchemy import ARRAY, Uuid, any_, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk.errors import ImageNotFound, RefusedImage
from backtalk.images import MAX_STORED_PIXELS, Picture, decode, to_input
from backtalk.runtime import Backbone
from backtalk.store import ImageStore
from backtalk.tables import Embedding, Image

_HEADER_BYTES = 19  # signature 11, flags 4, extension length 4 (PostgreSQL docs, COPY, binary format)
_CHUNK = 1000
_log = logging.getLogger(__name__)


class EmbeddingGone(KeyError):
    """There is none, or its image was deleted since it was listed: list anew."""


def save_embeddings(
    session: Session, backbone_digest: str, image_ids: Sequence[UUID], vectors: NDArray[np.float16]
) -> None:
    """Keep `vectors` (N, D), float16, in the order of `image_ids`; those that are there already stay."""
    for start in range(0, len(image_ids), _CHUNK):
        rows = [
            {"image_id": image_id, "backbone_digest": backbone_digest, "vector": HalfVector(vector)}
            for image_id, vector in zip(
                image_ids[start : start + _CHUNK], vectors[start : start + _CHUNK], strict=True
            )
        ]
        session.execute(insert(Embedding).values(rows).on_conflict_do_nothing())


def load_embeddings(
    session: Session, backbone_digest: str, image_ids: Sequence[UUID], width: int
) -> NDArray[np.float16]:
    """Embeddings (N, `width`), float16, in the order of `image_ids`.

    Raises:
        EmbeddingGone: an image has no embedding by this backbone.
    """
    if not image_ids:
        return np.zeros((0, width), np.float16)
    query = """COPY (
        SELECT w.position::int4, e.vector
        FROM unnest(%s::uuid[]) WITH ORDINALITY AS w(image_id, position)
        JOIN embeddings e ON e.image_id = w.image_id AND e.backbone_digest = %s
    ) TO STDOUT (FORMAT BINARY)"""
    connection = cast(Any, session.connection().connection.driver_connection)
    with connection.cursor() as cursor, cursor.copy(query, (list(image_ids), backbone_digest)) as copy:
        data = b"".join(bytes(block) for block in copy)
    rows = _parse(data, width)
    if len(rows) != len(image_ids):
        raise EmbeddingGone(f"{len(image_ids) - len(rows)} images have no embedding by this backbone")
    vectors = np.empty((len(image_ids), width), np.float16)
    vectors[rows["position"].astype(np.int64) - 1] = rows["vector"].astype(np.float16)
    return vectors


def _parse(data: bytes, width: int) -> NDArray[np.void]:
    """Rows of (position int4, halfvec): each field has its length before it, all big-endian."""
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("position_bytes", ">i4"),
            ("position", ">i4"),
            ("vector_bytes", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2", (width,)),
        ]
    )
    body = memoryview(data)[_HEADER_BYTES:-2]  # the trailer is one int2, −1
    if len(body) % row.itemsize:
        raise psycopg.DataError(f"embeddings of another width than {width}")
    return np.frombuffer(body, row)


def find_missing(session: Session, backbone_digest: str, image_ids: Sequence[UUID]) -> list[UUID]:
    """Those of `image_ids` that have no embedding by this backbone, in the same order."""
    known = set(
        session.scalars(
            select(Embedding.image_id).where(
                Embedding.backbone_digest == backbone_digest,
                Embedding.image_id == any_(literal(list(image_ids), ARRAY(Uuid))),
            )
        )
    )
    return [image_id for image_id in image_ids if image_id not in known]


def embed_missing(
    session: Session, images: ImageStore, backbone: Backbone, image_ids: Sequence[UUID]
) -> list[UUID]:
    """Embed those that this backbone has not seen, from their kept pixels.

    Returns the ids that cannot be embedded, since their pixels are not kept.
    """
    missing = find_missing(session, backbone.digest, image_ids)
    rows = session.execute(
        select(Image.id, Image.store_key, Image.orientation).where(Image.id.in_(missing))
    ).all()
    without_pixels = []
    for row in rows:
        picture = _find_picture(images, row.store_key, row.orientation)
        if picture is None:
            without_pixels.append(row.id)
            continue
        vectors = backbone.embed(to_input(picture.pixels, backbone.input_size)[None])
        if _hold(session, row.id):
            save_embeddings(session, backbone.digest, [row.id], vectors)
        else:
            without_pixels.append(row.id)
    return without_pixels


def _find_picture(images: ImageStore, store_key: str | None, orientation: int) -> Picture | None:
    """None where the pixels are not kept, were deleted just now, or are refused by a decoder that has become
    stricter since they came: one image must not keep all others from being judged.
    """
    if store_key is None:
        return None
    try:
        data = images.get(store_key)
        return decode(data, max_bytes=len(data), max_pixels=MAX_STORED_PIXELS, orientation=orientation)
    except (ImageNotFound, RefusedImage) as error:
        _log.warning("an image cannot be embedded: %s", error.message)
        return None


def _hold(session: Session, image_id: UUID) -> bool:
    """Whether the image is still there; then nobody deletes it before this transaction ends."""
    living = select(Image.id).where(Image.id == image_id, Image.deleted_at.is_(None))
    return session.scalar(living.with_for_update(read=True, key_share=True)) is not None
