"""Training labels that the other samples speak against, offered to reviewers; and a stock for gold items.

The rule: only samples of the train split are weighed and offered, those of the base folder too. Judging sets
are not, so no past verdict changes under anybody's hands. A suspicion alone takes nothing from training.
"""

import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk import items
from backtalk.champions import get_champion
from backtalk.children import start_child, stop_child
from backtalk.embeddings import load_embeddings
from backtalk.gold import stock_gold
from backtalk.states import ItemKind, Queue
from backtalk.system import System
from backtalk.tables import Backbone, LabelCheck, Model, Prediction, ReviewItem, Sample
from backtalk.unasked import predict_unasked

log = logging.getLogger(__name__)

OFFERED_MOST = 200  # open at a time: the most suspected ones
WEIGHED_MOST = 20_000  # samples in one check; of more, each check draws others
FEWEST = 50  # samples, and
FEWEST_A_LABEL = 10  # of each label: with fewer, scores say little
TIMEOUT_S = 200.0
AGAIN_AFTER = "1 day"


@dataclass(frozen=True)
class Prepared:
    """What the weighing process is given: N samples, and the places of their labels among the model's."""

    sample_ids: list[int]
    label_places: list[int]
    labels: int  # of the model


@dataclass(frozen=True)
class Weighed:
    """N samples, with scores (N, labels of the model) by heads that did not learn from them."""

    sample_ids: list[int]
    scores: NDArray[np.float32]
    suspected: list[int]  # indices of the samples, the most suspected first


def list_due(session: Session) -> list[int]:
    """Models whose champion has changed since their labels were weighed, or a day has passed."""
    return list(session.scalars(text(_DUE)))


def check_labels(system: System, model_id: int) -> int:
    """Weigh the model's training labels and bring its queue of suspected ones up to date; how many are open.

    Where they cannot be weighed, `label_checks` says why, and the next try comes as if they had been.
    """
    with tempfile.TemporaryDirectory(prefix="backtalk-labels-") as name:
        folder = Path(name)
        with system.db.reading() as session:
            model = session.get_one(Model, model_id)
            generation, prepared = model.generation, _prepare(session, model, folder)
        found = _weigh(prepared, folder) if isinstance(prepared, Prepared) else prepared
    with system.db.transaction() as session:
        model = session.get_one(Model, model_id)
        stock_gold(session, system, model)
        weighed, reason = (found, None) if isinstance(found, Weighed) else (None, found)
        suspected = _offer(session, system, model, weighed) if weighed else 0
        values = {
            "generation": generation,
            "samples": len(weighed.sample_ids) if weighed else 0,
            "suspected": suspected,
            "reason": reason,
            "checked_at": func.now(),
        }
        row = insert(LabelCheck).values(model_id=model_id, **values)
        session.execute(row.on_conflict_do_update(index_elements=["model_id"], set_=values))
    log.info("model %d: %d training labels are suspected", model_id, suspected)
    return suspected


# --- weighing ------------------------------------------------------------------------------------
def _prepare(session: Session, model: Model, folder: Path) -> Prepared | str:
    """Or a sentence that says why they cannot be weighed."""
    rows = _list_samples(session, model)
    counts = {label: sum(row.label == label for row in rows) for label in model.labels}
    labels = [label for label, n in counts.items() if n >= FEWEST_A_LABEL]
    rows = [row for row in rows if row.label in labels]
    if len(labels) < 2 or len(rows) < FEWEST:
        return f"It takes {FEWEST} training images, and two labels with {FEWEST_A_LABEL} each."
    digest = get_champion(session, model.id).backbone_digest
    width = session.get_one(Backbone, digest).width
    np.savez(
        folder / "samples.npz",
        embeddings=load_embeddings(session, digest, [row.image_id for row in rows], width),
        labels=np.array([labels.index(row.label) for row in rows], np.int32),
        groups=np.array([row.group_id or -row.id for row in rows], np.int64),
        seed=model.generation,
    )
    places = [model.labels.index(label) for label in labels]
    return Prepared([row.id for row in rows], places, len(model.labels))


def _weigh(prepared: Prepared, folder: Path) -> Weighed | str:
    try:
        scores, suspected = _run(folder)
    except subprocess.SubprocessError as error:
        log.exception("training labels could not be weighed")
        return f"They could not be weighed: {error}."
    spread = np.zeros((len(scores), prepared.labels), np.float32)
    spread[:, prepared.label_places] = scores
    return Weighed(prepared.sample_ids, spread, [int(i) for i in suspected])


def _list_samples(session: Session, model: Model) -> list[Any]:
    digest = get_champion(session, model.id).backbone_digest
    values = {"model": model.id, "digest": digest, "salt": str(model.generation), "most": WEIGHED_MOST}
    return list(session.execute(text(_SAMPLES), values))


def _run(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """In a process of its own: what it imports would not fit a worker's memory."""
    child = start_child([sys.executable, "-m", "backtalk.learn.label_errors", folder])
    try:
        status = child.wait(TIMEOUT_S)
    finally:
        stop_child(child)
    if status != 0:
        raise subprocess.SubprocessError(f"the process that weighs labels ended with status {status}")
    with np.load(folder / "found.npz", allow_pickle=False) as found:
        return found["scores"], found["suspected"]


# --- offering ------------------------------------------------------------------------------------
def _offer(session: Session, system: System, model: Model, weighed: Weighed) -> int:
    """Close what is suspected no longer, and put in the most suspected of the others; how many are open."""
    ranked = {weighed.sample_ids[i]: i for i in weighed.suspected}
    _close_cleared(session, model, list(ranked))
    answered = set(session.scalars(text(_ANSWERED), {"samples": list(ranked)}))
    open_ones = set(session.scalars(_open_here(model, ReviewItem.sample_id)))
    chosen = [i for i in ranked if i not in answered | open_ones][: max(OFFERED_MOST - len(open_ones), 0)]
    samples = session.scalars(
        select(Sample).where(Sample.id.in_(chosen), Sample.retracted_at.is_(None)).order_by(Sample.id)
    ).all()
    base = [sample.image_id for sample in samples if sample.prediction_id is None]
    predictions = predict_unasked(session, system, get_champion(session, model.id), base)
    put = [
        sample
        for sample in sorted(samples, key=lambda s: chosen.index(s.id))
        if _put(session, model, sample, predictions, weighed.scores[ranked[sample.id]])
    ]
    return len(open_ones) + len(put)


def _put(
    session: Session,
    model: Model,
    sample: Sample,
    predictions: dict[UUID, Prediction],
    scores: NDArray[np.float32],
) -> bool:
    """False where something else is being asked about the same prediction, or its image is gone."""
    known = predictions.get(sample.image_id)
    key = sample.prediction_id or (known.id if known else None)
    prediction = session.get(Prediction, key, with_for_update=True) if key else None
    if prediction is None or items.find_open_item(session, prediction.id) is not None:
        return False
    best = int(scores.argmax())
    given, other = float(scores[model.labels.index(sample.label)]), model.labels[best]
    item = ReviewItem(
        model_id=model.id,
        prediction_id=prediction.id,
        kind=ItemKind.SUSPECTED,
        sample_id=sample.id,
        scores=[float(score) for score in scores],
        mark=(
            f"Heads that learned from the other samples alone give {sample.label!r} {given:.1%} "
            f"and {other!r} {float(scores[best]):.1%}."
        ),
        etag=1,
    )
    items.describe(session, item, prediction, None)
    first, second = sorted((float(score) for score in scores), reverse=True)[:2]
    item.predicted, item.reported, item.doubt, item.margin = other, sample.label, 1 - given, first - second
    session.add(item)
    session.flush()
    return True


def _close_cleared(session: Session, model: Model, suspected: list[int]) -> None:
    """Items whose sample was replaced, or that is no longer suspected; not those that somebody looks at."""
    gone = select(Sample.id).where(Sample.id == ReviewItem.sample_id, Sample.retracted_at.is_not(None))
    session.execute(
        update(ReviewItem)
        .where(
            ReviewItem.model_id == model.id,
            ReviewItem.closed_at.is_(None),
            ReviewItem.queue == Queue.SUSPECTED,
            items.is_free(),
            gone.exists() | ReviewItem.sample_id.not_in(suspected),
        )
        .values(closed_at=func.now(), etag=ReviewItem.etag + 1)
        .execution_options(synchronize_session=False)
    )


def _open_here(model: Model, column: Any) -> Any:
    return select(column).where(
        ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), ReviewItem.queue == Queue.SUSPECTED
    )


_DUE = f"""
SELECT m.id FROM models m LEFT JOIN label_checks c ON c.model_id = m.id
WHERE m.live_version IS NOT NULL AND (
    c.model_id IS NULL OR c.generation <> m.generation OR c.checked_at < now() - interval '{AGAIN_AFTER}'
) ORDER BY c.checked_at NULLS FIRST, m.id
"""  # noqa: S608  # a constant of this module

_SAMPLES = """
SELECT s.id, s.image_id, s.label, m.group_id FROM samples s
JOIN images i ON i.id = s.image_id AND i.store_key IS NOT NULL
JOIN embeddings e ON e.image_id = s.image_id AND e.backbone_digest = :digest
LEFT JOIN group_members m ON m.model_id = s.model_id AND m.image_id = s.image_id
WHERE s.model_id = :model AND s.split = 'train' AND s.retracted_at IS NULL
ORDER BY md5(s.id::text || :salt), s.id LIMIT :most
"""

# A person has looked at this very label already, and let it stand.
_ANSWERED = """
SELECT i.sample_id FROM review_items i JOIN decisions d ON d.item_id = i.id
WHERE i.sample_id = ANY (:samples) AND i.kind = 'suspected' AND d.final
AND NOT EXISTS (SELECT FROM decisions u WHERE u.undoes = d.id)
"""
