"""Any two versions on the same holdout, from stored embeddings: what one fixes and what it breaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.answers import Answers, Pairs
from backtalk.readings import read_scores
from backtalk.system import System
from backtalk.tables import Model, Version


@dataclass(frozen=True, eq=False)
class Comparison:
    """In `answers`, `base` stands where the gate has the champion and `other` where it has the candidate."""

    base: int
    other: int
    answers: Answers
    pairs: Pairs
    left_out: int  # holdout images that the backbone of one of the two has not seen


@dataclass(frozen=True)
class Saying:
    """What a version says about an image."""

    label: str
    score: float


def compare_versions(
    session: Session, system: System, model: Model, base: Version, other: Version
) -> Comparison:
    """Ask both heads about every holdout image that both backbones have seen. Nothing is embedded anew.

    Raises:
        ArtefactInvalid: the head of one of them is gone or damaged.
    """
    holdout = session.execute(text(_HOLDOUT), {"model": model.id, "labels": model.labels}).one()
    every = holdout.image_ids.split(",") if holdout.image_ids else []
    before, after = (read_scores(session, system, version, every) for version in (base, other))
    both = np.array([one in before and one in after for one in every], np.bool_)
    asked = tuple(one for one, seen in zip(every, both, strict=True) if seen)
    shape = (len(asked), len(model.labels))
    answers = Answers(
        image_ids=asked,
        truth=np.array(holdout.truth or (), np.int64)[both],
        champion=np.array([before[one] for one in asked], np.float32).reshape(shape),
        candidate=np.array([after[one] for one in asked], np.float32).reshape(shape),
    )
    pairs = Pairs.compare(answers.champion_right, answers.candidate_right)
    return Comparison(base.number, other.number, answers, pairs, len(every) - len(asked))


# As `dataset.list_split` has it, in one row instead of thousands: near-duplicates with the same label judge
# once, those of the base folder always. What is in the holdout, a person labelled: nothing in it is disputed.
_HOLDOUT = """
SELECT string_agg(image_id::text, ',' ORDER BY id) AS image_ids,
    array_agg(array_position(CAST(:labels AS text[]), label) - 1 ORDER BY id) AS truth
FROM (
    SELECT s.id, s.image_id, s.label, s.origin = 'base' OR m.group_id IS NULL OR row_number() OVER (
        PARTITION BY m.group_id, s.label, s.origin = 'base' ORDER BY s.id
    ) = 1 AS judges
    FROM samples s
    LEFT JOIN group_members m ON m.model_id = s.model_id AND m.image_id = s.image_id
    WHERE s.model_id = :model AND s.split = 'holdout' AND s.retracted_at IS NULL
) offered WHERE judges
"""


def ask_version(
    session: Session, system: System, version: Version, image_ids: Sequence[UUID]
) -> dict[UUID, Saying]:
    """What a version says about these images; those that its backbone has not seen are left out.

    Raises:
        ArtefactInvalid: its head is gone or damaged.
    """
    scores = read_scores(session, system, version, [str(image_id) for image_id in image_ids])
    labels = session.get_one(Model, version.model_id).labels
    return {UUID(one): Saying(labels[int(row.argmax())], float(row.max())) for one, row in scores.items()}
