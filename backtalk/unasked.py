"""Predictions that nobody asked for: what the live version says of samples, for reviewers to look at.

They are told from traffic by having no key. Their scores are the live head's on the stored embedding, so that
replay gives them again as it does all others.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk.evidence import score_seen
from backtalk.system import System
from backtalk.tables import Prediction, Version


def predict_labels(
    session: Session, system: System, live: Version, image_ids: Sequence[UUID]
) -> dict[UUID, str]:
    """By image, the label that the version `live` gives it; nothing is written down."""
    head, seen, scores = score_seen(session, system, live, image_ids)
    return {i: head.labels[int(row.argmax())] for i, row in zip(seen, scores, strict=True)}


def predict_unasked(
    session: Session, system: System, live: Version, image_ids: Sequence[UUID]
) -> dict[UUID, Prediction]:
    """By image, a prediction of the version `live`; images that its backbone has not seen are left out."""
    rows = session.scalars(
        select(Prediction).where(
            Prediction.model_id == live.model_id,
            Prediction.version == live.number,
            Prediction.key_id.is_(None),
            Prediction.image_id.in_(image_ids),
        )
    )
    found = {row.image_id: row for row in rows}
    wanted = [image_id for image_id in image_ids if image_id not in found]
    if not wanted:
        return found
    head, seen, scores = score_seen(session, system, live, wanted)
    for image_id, row in zip(seen, scores, strict=True):
        found[image_id] = Prediction(
            model_id=live.model_id,
            version=live.number,
            image_id=image_id,
            label=head.labels[int(row.argmax())],
            scores=[float(score) for score in row],
        )
    session.add_all([found[image_id] for image_id in seen])
    session.flush()
    return found
