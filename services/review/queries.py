"""Reads that only the pages need; everything else comes from `backtalk.catalogue`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from backtalk import catalogue, review
from backtalk.decisions import stands
from backtalk.errors import ImageNotFound, ItemNotFound, RunNotFound
from backtalk.policy import Policy
from backtalk.queues import COUNTED_MOST
from backtalk.states import RULINGS, CorrectionState
from backtalk.tables import (
    Correction,
    Decision,
    GateCheck,
    Image,
    LedgerEntry,
    Model,
    Prediction,
    ReviewItem,
    Run,
    Sample,
    Snapshot,
    TriggerCheck,
    Version,
)
from services.review.language import translate as _
from services.review.language import write_share


def check_item_of(session: Session, model: Model, item_id: str) -> None:
    """Raises ItemNotFound unless the item belongs to `model`."""
    key = catalogue.parse_id(item_id)
    item = session.get(ReviewItem, key) if key else None
    if item is None or item.model_id != model.id:
        raise ItemNotFound(f"{model.name} has no review item {item_id!r}.")


def find_disputed(session: Session, correction_ids: Iterable[str | None]) -> set[str]:
    """Those of the corrections that contradict another statement."""
    ids = [UUID(one) for one in correction_ids if one is not None]
    rows = select(Correction.id).where(Correction.id.in_(ids), Correction.state == CorrectionState.DISPUTED)
    return {str(one) for one in session.scalars(rows)}


@dataclass(frozen=True)
class Traffic:
    """What one model has to do with; each is counted up to `COUNTED_MOST` + 1."""

    open: int
    predictions_24h: int
    corrections: int


def count_traffic(session: Session, model: Model) -> Traffic:
    """Bounded, whatever the model has seen: this is asked every few seconds."""
    recent = Prediction.created_at > func.now() - timedelta(days=1)
    # Without a key they were made for reviewers, not for an app.
    asked = (Prediction.model_id == model.id, Prediction.key_id.is_not(None), recent)
    return Traffic(
        open=review.count_open(session, model.id, COUNTED_MOST + 1),
        predictions_24h=_count_some(session, Prediction.id, *asked),
        corrections=_count_some(session, Correction.id, Correction.model_id == model.id),
    )


def _count_some(session: Session, key: InstrumentedAttribute[UUID], *where: ColumnElement[bool]) -> int:
    some = select(key).where(*where).limit(COUNTED_MOST + 1).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def count_decided_today(session: Session, model: Model, actor: str) -> int:
    """Rulings of this person since midnight where the model is at home, less those taken back."""
    here = ZoneInfo(Policy.parse(model.policy).timezone)
    midnight = datetime.now(here).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    rows = select(func.count()).where(
        Decision.model_id == model.id,
        Decision.actor == actor,
        Decision.action.in_(RULINGS),
        Decision.created_at >= midnight,
        stands(),
    )
    return session.scalar(rows) or 0


def get_image_of(session: Session, model: Model, image_id: str) -> Image:
    """An image that this model predicted on or learns from, with pixels in the store.

    Raises:
        ImageNotFound: no such image here, or its pixels are gone.
    """
    image = find_image_of(session, model, image_id)
    if image is None:
        raise ImageNotFound(f"{model.name} has no picture {image_id!r}.")
    if image.store_key is None:
        raise ImageNotFound("The pixels of this picture were deleted, or its policy keeps none.")
    return image


def find_image_of(session: Session, model: Model, image_id: str) -> Image | None:
    """An image that this model predicted on or learns from, with or without pixels."""
    key = catalogue.parse_id(image_id)
    image = session.get(Image, key) if key else None
    return image if image is not None and _belongs(session, model, image) else None


def _belongs(session: Session, model: Model, image: Image) -> bool:
    predicted = exists().where(Prediction.image_id == image.id, Prediction.model_id == model.id)
    learned = exists().where(Sample.image_id == image.id, Sample.model_id == model.id)
    return bool(session.scalar(select(predicted | learned)))


def get_run_of(session: Session, model: Model, run_id: str) -> catalogue.RunRecord:
    """A run of this model. Raises RunNotFound."""
    record = catalogue.get_run(session, run_id)
    if record.run.model_id != model.id:
        raise RunNotFound(f"{model.name} has no run {run_id!r}.")
    return record


def find_last_run(session: Session, model: Model) -> Run | None:
    rows = select(Run).where(Run.model_id == model.id).order_by(Run.id.desc()).limit(1)
    return session.scalar(rows)


def find_last_change(session: Session, model: Model) -> LedgerEntry | None:
    return session.get(LedgerEntry, (model.id, model.generation))


def list_changes_since(session: Session, model: Model, since: date) -> list[LedgerEntry]:
    """Changes of champion from the beginning of that day (UTC) on, the newest 200 of them."""
    start = datetime.combine(since, time(), UTC)
    rows = select(LedgerEntry).where(LedgerEntry.model_id == model.id, LedgerEntry.created_at >= start)
    return list(session.scalars(rows.order_by(LedgerEntry.seq.desc()).limit(200)))


def find_last_check(session: Session, model: Model) -> TriggerCheck | None:
    rows = select(TriggerCheck).where(TriggerCheck.model_id == model.id)
    return session.scalar(rows.order_by(TriggerCheck.id.desc()).limit(1))


def find_snapshot(session: Session, run: Run) -> Snapshot | None:
    if run.snapshot_digest is None:
        return None
    rows = select(Snapshot).where(Snapshot.model_id == run.model_id, Snapshot.digest == run.snapshot_digest)
    return session.scalar(rows)


def find_artefact_check(session: Session, run: Run) -> GateCheck | None:
    """What the process found that loaded the artefact: it is written before the judge's own rounds."""
    rows = select(GateCheck).where(GateCheck.run_id == run.id, GateCheck.check == "artefact")
    return session.scalar(rows.order_by(GateCheck.id.desc()).limit(1))


def find_holdout_accuracies(session: Session, model: Model, versions: Iterable[Version]) -> dict[int, str]:
    """By version number: how much of the holdout it read right when it was judged, with its interval.

    A version that was never a candidate has the figure of the first run that was judged against it.
    """
    numbers = {version.number for version in versions}
    rows = (
        select(Run.version, Run.base_version, GateCheck.detail)
        .join(GateCheck, GateCheck.run_id == Run.id)
        .where(Run.model_id == model.id, GateCheck.check == "accuracy-champion")
        .where(Run.version.in_(numbers) | Run.base_version.in_(numbers))
        .order_by(GateCheck.id)
    )
    as_candidate: dict[int, str] = {}
    as_champion: dict[int, str] = {}
    for candidate, champion, detail in session.execute(rows):
        if candidate in numbers and (said := _say_accuracy(detail.get("candidate_accuracy"))):
            as_candidate[candidate] = said
        if champion in numbers and (said := _say_accuracy(detail.get("reference_accuracy"))):
            as_champion.setdefault(champion, said)
    return as_champion | as_candidate


def _say_accuracy(measured: dict[str, float | None] | None) -> str | None:
    if not measured or (share := measured.get("share")) is None:
        return None
    low, high = measured.get("low"), measured.get("high")
    if low is None or high is None:
        return write_share(share)
    bounds = {"low": f"{100 * low:.1f}", "high": f"{100 * high:.1f}"}
    return _("%(share)s (%(low)s to %(high)s)", share=write_share(share), **bounds)
