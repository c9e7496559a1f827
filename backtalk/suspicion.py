"""Which corrections a reviewer should look at twice: those that neither champion nor neighbours support.

A mark decides nothing. An honest report of a new kind of image looks just as strange, so a person must look.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from backtalk.states import UNDECIDED
from backtalk.tables import Correction, Model, Prediction, Version

NEIGHBOURS = 10
#: Marked above this. On handwritten digits (small backbone, version 1 at 75 %) it strikes 62 % of wrong
#: reports about right answers and 11 % of honest reports; docs/poisoning.md has the measurement.
SUSPICIOUS = 0.95


@dataclass(frozen=True)
class Suspicion:
    """`value` is 0 where the reported label is as likely as can be, and 1 where nothing speaks for it."""

    value: float
    reason: str | None  # a sentence for the reviewer where the value is beyond the limit


def mark_corrections(session: Session, prediction: Prediction) -> None:
    """Weigh each undecided correction of this prediction that has not been weighed yet."""
    rows = select(Correction).where(
        Correction.prediction_id == prediction.id,
        Correction.state.in_(UNDECIDED),
        Correction.suspicion.is_(None),
    )
    corrections = list(session.scalars(rows))
    if not corrections:
        return
    model = session.get_one(Model, prediction.model_id)
    neighbours = find_neighbours(session, model, prediction.image_id)
    for correction in corrections:
        score = _find_score(model, prediction, correction.label)
        if score is None and not neighbours:
            continue  # nothing to weigh it against
        found = weigh(correction.label, prediction.label, score, neighbours)
        correction.suspicion, correction.mark = found.value, found.reason
    session.flush()


def _find_score(model: Model, prediction: Prediction, label: str) -> float | None:
    """What the champion gave the label. None where a device answered: who reports may have sent them."""
    if prediction.made_elsewhere:
        return None
    at = model.labels.index(label)
    return prediction.scores[at] if at < len(prediction.scores) else 0.0  # where none were recorded


def weigh(reported: str, predicted: str, score: float | None, neighbours: list[str]) -> Suspicion:
    """Hold a report against the champion's score for it, and the labels of the nearest training images.

    The loss under the champion is −ln `score`, so it is large where the score is small.
    """
    same = sum(label == reported for label in neighbours)
    value = 1 - max(score or 0.0, same / len(neighbours) if neighbours else 0.0)
    if value <= SUSPICIOUS:
        return Suspicion(value, None)
    said = (
        "A device predicted it" if score is None else f"The champion gave {reported!r} a score of {score:.1%}"
    )
    if neighbours:
        alike = sum(label == predicted for label in neighbours)
        said += (
            f", and of the {len(neighbours)} most similar training images that people labelled, none is "
            f"{reported!r} and {alike} {'is' if alike == 1 else 'are'} {predicted!r}"
        )
    return Suspicion(value, f"{said}.")


def find_neighbours(session: Session, model: Model, image_id: UUID) -> list[str]:
    """Labels of the nearest live training images, nearest first, by cosine in the champion's embedding.

    Only those whose label a person gave or approved: wrong reports must not support each other. Empty where
    the champion's backbone has not seen the image.
    """
    digest = session.scalar(
        select(Version.backbone_digest).where(
            Version.model_id == model.id, Version.number == model.live_version
        )
    )
    parameters: dict[str, Any] = {"model": model.id, "digest": digest, "image": image_id, "k": NEIGHBOURS}
    return list(session.scalars(text(_NEAREST), parameters))


_NEAREST = """
WITH asked AS (
    SELECT vector FROM embeddings WHERE image_id = :image AND backbone_digest = :digest
)
SELECT s.label FROM asked, samples s
JOIN embeddings e ON e.image_id = s.image_id AND e.backbone_digest = :digest
WHERE s.model_id = :model AND s.split = 'train' AND s.by_person AND s.retracted_at IS NULL
AND s.image_id <> :image
ORDER BY e.vector <=> asked.vector, s.id LIMIT :k
"""
