"""Open review items whose pictures look alike to a backbone.

Where a backbone has many embeddings, an index over them finds the nearest: IVFFlat, for predictions write
embeddings all the time, and to insert into a list costs them next to nothing, while HNSW would search its
graph with each. Backbones differ in width, so each has an index of its own: partial, and over an expression
that says the width. Without the index the oldest open items are compared one by one.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import ColumnElement, Select, Text, bindparam, select, text
from sqlalchemy.orm import Session

from backtalk.db import get_plain_url
from backtalk.tables import Backbone, Embedding, Model, Prediction, ReviewItem, Version

log = logging.getLogger(__name__)

INDEX_FROM = 10_000  # embeddings of a backbone; fewer are compared as fast without an index
ROWS_A_LIST = 1000  # as pgvector's README advises up to a million rows
MOST_LISTS = 500
PROBES = 10
EXACT_MOST = 2000  # open items that are compared one by one where there is no index
_BUILD_TIMEOUT = "10min"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Alike:
    """Ids of open items, the most similar first, the one that was asked about among them."""

    item_ids: list[UUID]
    whole: bool  # whether all open items were looked at, not only the oldest `EXACT_MOST`


def find_alike(
    session: Session, model: Model, item_id: UUID, wanted: list[ColumnElement[bool]], limit: int
) -> Alike | None:
    """The open items that look most like one item to the live version's backbone.

    None where that backbone has not seen the item's picture.

    Args:
        wanted: what else holds for the items, in terms of `ReviewItem`.
    """
    backbone = session.scalar(
        select(Backbone)
        .join(Version, Version.backbone_digest == Backbone.digest)
        .where(Version.model_id == model.id, Version.number == model.live_version)
    )
    if backbone is None:
        return None
    asked = session.scalar(
        select(Embedding.vector)
        .join(Prediction, Prediction.image_id == Embedding.image_id)
        .join(ReviewItem, ReviewItem.prediction_id == Prediction.id)
        .where(ReviewItem.id == item_id, Embedding.backbone_digest == backbone.digest)
    )
    if asked is None:
        return None
    values = {"asked": _to_text(cast(Any, asked))}  # a list, whatever the column's type says
    if _has_index(session, backbone.digest):
        session.execute(text(f"SET LOCAL ivfflat.probes = {PROBES}"))
        session.execute(text("SET LOCAL ivfflat.iterative_scan = relaxed_order"))
        rows = _near(model, backbone, wanted).limit(limit)
        return Alike(list(session.scalars(rows, values)), whole=True)
    oldest = (
        select(ReviewItem.id)
        .where(ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), *wanted)
        .order_by(ReviewItem.id)
        .limit(EXACT_MOST + 1)
    )
    ids = list(session.scalars(oldest))
    rows = _near(model, backbone, [ReviewItem.id.in_(ids[:EXACT_MOST])]).limit(limit)
    return Alike(list(session.scalars(rows, values)), whole=len(ids) <= EXACT_MOST)


def _near(model: Model, backbone: Backbone, wanted: list[ColumnElement[bool]]) -> Select[UUID]:
    """Literals where the index has them: a plan made for any digest could not use it."""
    digest, width = _checked(backbone.digest), int(backbone.width)
    return (
        select(ReviewItem.id)
        .join(Prediction, Prediction.id == ReviewItem.prediction_id)
        .join(Embedding, Embedding.image_id == Prediction.image_id)
        .where(
            ReviewItem.model_id == model.id,
            ReviewItem.closed_at.is_(None),
            text(f"embeddings.backbone_digest = '{digest}'"),
            *wanted,
        )
        .order_by(
            text(f"embeddings.vector::halfvec({width}) <=> CAST(:asked AS halfvec({width}))").bindparams(
                bindparam("asked", type_=Text)
            )
        )
    )


def _to_text(vector: Iterable[float]) -> str:
    """As pgvector reads it."""
    return str([float(value) for value in vector])


def _checked(digest: str) -> str:
    if not _HEX.fullmatch(digest):
        raise ValueError(f"{digest!r} is no digest")
    return digest


# --- the index ---------------------------------------------------------------------------------
def name_index(digest: str) -> str:
    return f"ix_embeddings_near_{_checked(digest)[:16]}"


def _has_index(session: Session, digest: str) -> bool:
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
    return bool(session.scalar(text(valid), {"name": name_index(digest)}))


def make_indexes(database_url: str) -> list[str]:
    """Index the embeddings of each backbone that has enough of them; returns the names of new indexes.

    Predictions go on meanwhile: the index is built beside them, on a connection of its own.

    Raises:
        psycopg.errors.InsufficientPrivilege: this role does not own the table.
    """
    made = []
    with psycopg.connect(get_plain_url(database_url), autocommit=True) as connection:
        connection.execute(sql.SQL("SET statement_timeout = {}").format(_BUILD_TIMEOUT))
        # Two processes do not build the same index; the second finds it made.
        connection.execute("SELECT pg_advisory_lock(hashtext('embedding indexes'), 0)")
        for digest, width, rows in connection.execute(_MISSING, {"least": INDEX_FROM}).fetchall():
            name = name_index(digest)
            connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(name)))  # broken off
            lists = min(MOST_LISTS, max(10, rows // ROWS_A_LIST))
            connection.execute(_index_statement(name, digest, width, lists))
            log.info("%d embeddings of backbone %s are indexed", rows, digest[:12])
            made.append(name)
    return made


def _index_statement(name: str, digest: str, width: int, lists: int) -> sql.Composed:
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {name} ON embeddings "
        "USING ivfflat ((vector::halfvec({width})) halfvec_cosine_ops) WITH (lists = {lists}) "
        "WHERE backbone_digest = {digest}"
    ).format(
        name=sql.Identifier(name),
        width=sql.Literal(width),
        lists=sql.Literal(lists),
        digest=sql.Literal(digest),
    )


_MISSING = """
SELECT b.digest, b.width, e.rows FROM backbones b
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM embeddings WHERE backbone_digest = b.digest) e
WHERE e.rows >= %(least)s AND EXISTS (
    SELECT FROM versions v JOIN models m ON m.id = v.model_id AND m.live_version = v.number
    WHERE v.backbone_digest = b.digest
) AND NOT EXISTS (
    SELECT FROM pg_index
    WHERE indexrelid = to_regclass('ix_embeddings_near_' || left(b.digest, 16)) AND indisvalid
)
"""
