"""What a trainer is given to learn from: a snapshot's embeddings, labels and weights."""

from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from backtalk.admission import weigh_repeats
from backtalk.embeddings import EmbeddingGone, embed_missing, find_missing, load_embeddings
from backtalk.fitting import FitData, FitRequest
from backtalk.runtime import Backbone
from backtalk.snapshots import find_taught, get_snapshot, list_taught
from backtalk.states import Split
from backtalk.system import System
from backtalk.tables import Backbone as BackboneRow

READ_AGAIN = 5


def read_lessons(system: System, model_id: int, request: FitRequest, digest: str) -> FitData:
    """The snapshot's embeddings, in an order that depends on its content alone.

    An image that is deleted while they are read makes them be read again, without it.
    """
    for _ in range(READ_AGAIN):
        try:
            return _read(system, model_id, request, digest)
        except EmbeddingGone:
            continue
    return _read(system, model_id, request, digest)


def _read(system: System, model_id: int, request: FitRequest, digest: str) -> FitData:
    with system.db.transaction() as session:
        snapshot = get_snapshot(session, model_id, digest)
        rows = list_taught(session, snapshot)
        unseen = _embed_unseen(
            session, system, request.backbone_digest, [r.image_id for r in rows] + snapshot.stay_right_ids
        )
        kept = [r for r in rows if r.image_id not in unseen]
        width = session.get_one(BackboneRow, request.backbone_digest).width
        index = {label: i for i, label in enumerate(request.labels)}
        arrays: dict[str, Any] = {}
        for split in (Split.TRAIN, Split.VALIDATION):
            part = [r for r in kept if r.split == split]
            ids = [r.image_id for r in part]
            arrays[f"{split}_x"] = load_embeddings(session, request.backbone_digest, ids, width)
            arrays[f"{split}_y"] = np.array([index[r.label] for r in part], np.int32)
        known = find_taught(session, model_id, request.parent_version or 1)
        train = [r for r in kept if r.split == Split.TRAIN]
        arrays["train_seen"] = np.array([r.image_id in known for r in train], np.bool_)
        arrays["train_weight"] = np.array(weigh_repeats((r.group_id, r.origin) for r in train), np.float32)
        stay = [i for i in snapshot.stay_right_ids if i not in unseen]
        arrays["stay_x"] = load_embeddings(session, request.backbone_digest, stay, width)
    return FitData(**arrays)


def _embed_unseen(session: Session, system: System, digest: str, image_ids: list[UUID]) -> set[UUID]:
    """Images that this backbone has not seen, and cannot since their pixels are gone."""
    if not find_missing(session, digest, image_ids):
        return set()
    backbone = Backbone(system.versions.backbone_dir(digest), interpreters=1)
    return set(embed_missing(session, system.images, backbone, image_ids))
