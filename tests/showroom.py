"""A site with something to see: pages on a real server, and a model with a history behind them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from backtalk import gate, identity, images, items, ledger
from backtalk.policy import Policy
from backtalk.states import ItemKind, RunKind, RunState, Scope, VersionState
from backtalk.system import System
from backtalk.tables import GateCheck, LedgerEntry, Model, ReviewItem, Run, Snapshot, TriggerCheck, Version
from services.wsgi import create_app
from tests import factories, tunings

PASSWORD = "correct horse battery"
WAITING = "52 decided statements wait, and 50 are enough."  # as the product says it
EVERYTHING = (Scope.REVIEW, Scope.TRAIN, Scope.PROMOTE, Scope.ADMIN)


@contextmanager
def serve(system: System) -> Iterator[str]:
    """API and pages over `system` on a free port, in a thread; gives the address."""
    server = make_server("127.0.0.1", 0, create_app(system=system), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(timeout=5)
        server.server_close()


def add_person(system: System, name: str = "ada", scopes: Sequence[Scope] = (Scope.REVIEW,)) -> str:
    with system.db.transaction() as session:
        identity.create_user(session, name=name, password=PASSWORD, scopes=scopes)
    return name


# --- pictures ----------------------------------------------------------------------------------
def draw_picture(seed: int, side: int = 240) -> bytes:
    """A PNG of a few shapes; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (side, side * 3 // 4), tuple(int(c) for c in rng.integers(40, 220, 3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = (int(v) for v in rng.integers(8, side * 3 // 4, 3))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        pen.ellipse((x - r // 3, y - r // 3, x + r // 3, y + r // 3), fill=colour)
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def keep_picture(session: Session, system: System, data: bytes) -> Any:
    """Put the picture in the store as the API does, and return its row."""
    picture = images.decode(data)
    digest = images.pixels_digest(picture.pixels)
    kept = images.strip_metadata(data, picture.format)
    height, width = picture.pixels.shape[:2]
    return factories.make_image(
        session,
        pixels_sha256=digest,
        perceptual_hash=images.perceptual_hash(picture.pixels),
        width=width,
        height=height,
        store_key=system.images.put(digest, kept),
        byte_size=len(kept),
    )


def add_item(
    session: Session,
    system: System,
    model: Model,
    data: bytes,
    *,
    predicted: str,
    reported: str | None = None,
    score: float = 0.8,
    **correction: Any,
) -> ReviewItem:
    """A prediction in the queue: reported as wrong where `reported` is given, else drawn as an audit."""
    others = max(len(model.labels) - 1, 1)
    scores = [score if label == predicted else (1 - score) / others for label in model.labels]
    prediction = factories.make_prediction(
        session,
        model,
        keep_picture(session, system, data),
        label=predicted,
        scores=scores,
        audit=reported is None,
    )
    said = factories.make_correction(session, prediction, reported, **correction) if reported else None
    return factories.make_item(session, prediction, said)


def add_suspected(
    session: Session, system: System, model: Model, data: bytes, *, label: str, better: str
) -> ReviewItem:
    """A base picture that is trained on as `label`, while the other samples speak for `better`."""
    image = keep_picture(session, system, data)
    factories.make_group(session, model, image)
    sample = factories.make_sample(session, model, image, label=label)
    prediction = factories.make_prediction(session, model, image, label=label, key_id=None)
    item = ReviewItem(
        model_id=model.id,
        prediction_id=prediction.id,
        kind=ItemKind.SUSPECTED,
        sample_id=sample.id,
        scores=[0.9 if known == better else 0.1 / (len(model.labels) - 1) for known in model.labels],
        mark=f"Heads that learned from the other samples alone give {label!r} 1.7% and {better!r} 90.0%.",
        etag=1,
    )
    items.describe(session, item, prediction, None)
    item.predicted, item.reported, item.doubt = better, label, 0.98
    return factories.add(session, item)  # type: ignore[no-any-return]


def add_queue(system: System, *, n: int = 6, labels: Sequence[str] = ("cat", "dog")) -> list[str]:
    """A model `animals` and `n` reported mistakes (the first label predicted, the second reported)."""
    with system.db.transaction() as session:
        model = factories.make_model(session, "animals", labels=list(labels))
        items = [
            add_item(session, system, model, draw_picture(i), predicted=labels[0], reported=labels[1])
            for i in range(n)
        ]
        return [str(item.id) for item in items]


# --- a history ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tried:
    """One run of the history: how often the candidate fixes and breaks holdout pictures, and how it ended."""

    state: RunState
    fixed: int
    broken: int
    age_min: float
    trigger_key: str
    kind: RunKind = RunKind.HEAD
    took_min: float = 0.15


STORY = (
    Tried(RunState.PROMOTED, 58, 21, 300, "nightly:2026-11-23", RunKind.FULL, 13),
    Tried(RunState.INCONCLUSIVE, 12, 14, 240, "approved:100"),
    Tried(RunState.REJECTED, 9, 41, 180, "nightly:2026-11-24"),
    Tried(RunState.PROMOTED, 37, 16, 45, "approved:150"),
)
HOLDOUT = 340


def add_history(session: Session, model: Model) -> None:
    """Versions, runs with real verdicts, the ledger and the trigger checks of a model with version 1 live."""
    model.created_at = minutes_ago(360)
    for first in session.scalars(select(Version).where(Version.model_id == model.id)):
        first.created_at = model.created_at
    _write_ledger(session, model, "create", 1, None, None, "cli")
    for tried in STORY:
        _add_run(session, model, tried)
    session.flush()


def minutes_ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def _add_run(session: Session, model: Model, tried: Tried) -> Run:
    number, champion = model.next_version, model.live_version or 1
    model.next_version += 1
    snapshot = _add_snapshot(session, model, number)
    judgement = gate.judge(_make_evidence(model, tried), Policy.parse(model.policy))
    run = factories.make_run(
        session,
        model,
        kind=tried.kind,
        recipe=tunings.read_recipe(epochs=12) if tried.kind == RunKind.FULL else None,
        trigger_key=tried.trigger_key,
        requested_by="policy",
        state=tried.state,
        reason=judgement.reason,
        verdict=judgement.verdict,
        snapshot_digest=snapshot.digest,
        base_version=champion,
        version=number,
        attempt=1,
        progress={"part": "verdict", "seconds": {"read": 0.2, "fit": 2.1, "export": 2.6, "verify": 1.1}},
        created_at=minutes_ago(tried.age_min),
        started_at=minutes_ago(tried.age_min - 0.02),
        ended_at=minutes_ago(tried.age_min - tried.took_min),
    )
    for check in judgement.checks:
        factories.add(session, GateCheck(run_id=run.id, round=1, **vars(check)))
    _add_version(session, model, run, tried)
    _add_check(session, model, run, tried)
    return run


def _add_snapshot(session: Session, model: Model, number: int) -> Snapshot:
    counts = {
        "splits": {"train": 262 + 40 * number, "validation": 71 + 4 * number},
        "origins": {"base": 333, "correction": 31 * number, "confirmation": 9 * number},
        "train_labels": {label: 120 + 20 * number + i for i, label in enumerate(model.labels)},
        "stay_right": 400,
    }
    digest = f"{number:x}".rjust(2, "7") * 32
    row = Snapshot(model_id=model.id, digest=digest, sample_ids=[], counts=counts, stay_right_ids=[])
    factories.add(session, row)
    return row


def _make_evidence(model: Model, tried: Tried) -> gate.Evidence:
    rng = np.random.default_rng(int(tried.age_min))
    return gate.Evidence(
        labels=tuple(model.labels),
        holdout=_answer(rng, len(model.labels), HOLDOUT, tried.fixed, tried.broken),
        regression=_answer(rng, len(model.labels), 80, 22, 3),
        kept=_answer(rng, len(model.labels), 12, 0, 0),
        served_before=3,
        new_share=0.4,
    )


def _answer(rng: np.random.Generator, labels: int, n: int, fixed: int, broken: int) -> gate.Answers:
    """Answers in which just so many pairs are fixed and broken, three quarters of the rest right by both."""
    truth = rng.integers(0, labels, n)
    champion = np.full(n, True)
    champion[: n // 4] = False
    candidate = champion.copy()
    candidate[:fixed] = True
    candidate[n - broken :] = False
    return gate.Answers(
        image_ids=tuple(str(i) for i in range(n)),
        truth=truth,
        champion=_score(rng, truth, champion, labels),
        candidate=_score(rng, truth, candidate, labels),
    )


def _score(
    rng: np.random.Generator, truth: NDArray[np.int_], right: NDArray[np.bool_], labels: int
) -> NDArray[np.float32]:
    said = np.where(right, truth, (truth + 1) % labels)
    top = rng.uniform(0.62, 0.97, len(truth))
    scores = np.tile(((1 - top) / (labels - 1))[:, None], (1, labels))
    scores[np.arange(len(truth)), said] = top
    return scores.astype(np.float32)


def _add_version(session: Session, model: Model, run: Run, tried: Tried) -> None:
    promoted = tried.state == RunState.PROMOTED
    state = VersionState.LIVE if promoted else VersionState(tried.state)
    if promoted:
        live = session.query(factories.tables.Version).filter_by(model_id=model.id, state="live").one()
        live.state = VersionState.RETIRED
        session.flush()
    assert run.version is not None
    metrics = {"chosen": {"strength": 0.25, "alpha": 0.75, "temperature": 1.12, "l2": 0.01}}
    if tried.kind == RunKind.FULL:
        metrics["tuning"] = tunings.make_metrics()
    factories.make_version(
        session,
        model,
        run.version,
        state,
        run_id=run.id,
        parent=run.base_version,
        metrics=metrics,
        anchored_at=run.ended_at if promoted else None,
        created_at=run.ended_at,
    )
    if promoted:
        previous = model.live_version
        model.live_version, model.generation = run.version, model.generation + 1
        _write_ledger(session, model, "promote", run.version, previous, run, "policy")


def _write_ledger(
    session: Session,
    model: Model,
    action: str,
    version: int,
    previous: int | None,
    run: Run | None,
    actor: str,
) -> LedgerEntry:
    return ledger.append_entry(
        session,
        model_id=model.id,
        seq=model.generation,
        action=action,
        version=version,
        previous_version=previous,
        run_id=run.id if run else None,
        actor=actor,
        artefact_digest=f"{version:064d}",
        detail={},
    )


def _add_check(session: Session, model: Model, run: Run, tried: Tried) -> None:
    for minutes, fired, reason, new, sentence in (
        (tried.age_min + 4, False, "too-few", 31, "31 of 50 decided statements."),
        (tried.age_min, True, "fired", 50, "50 decided statements wait, and 50 are enough."),
        (
            tried.age_min - 0.2,
            False,
            "cooldown",
            52,
            f"{WAITING} The last run has just ended; cooldown_s is 60.",
        ),
    ):
        factories.add(
            session,
            TriggerCheck(
                model_id=model.id,
                kind=tried.kind,
                policy={"min_approved": 50},
                counts={"new": new, "needed": 50, "sentence": sentence},
                fired=fired,
                run_id=run.id if fired else None,
                reason=reason,
                at=minutes_ago(minutes),
            ),
        )
