"""Reads the history of client operations and the database afterwards, and says what does not hold.

Each invariant of docs/design.md section 13 is a function of its own: it takes the `Scene` and returns
sentences, none where it holds. `check` runs them all; `INVARIANTS` is the table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from backtalk import images, upkeep, verification
from backtalk.errors import BacktalkError
from backtalk.heads import Head
from backtalk.ledger import find_breaks
from backtalk.loading import Loader, read_wanted
from backtalk.runtime import Backbone
from backtalk.serving import LiveModels
from backtalk.states import ACTIVE_RUN_STATES, Side, Split
from backtalk.system import System
from backtalk.tables import (
    Confirmation,
    Correction,
    Decision,
    GroupMember,
    Image,
    ImageGroup,
    LedgerEntry,
    Model,
    Prediction,
    Run,
    Sample,
    Snapshot,
    TriggerCheck,
    Version,
)
from tests.faults.history import History, Operation

REPLAYED_AT_MOST = 60
#: Seconds within which an operation of that kind is answered, or is known not to be.
DEADLINES_S = {"predict": 30.0, "lease": 15.0, "decide": 15.0, "correct": 15.0, "confirm": 15.0, "get": 15.0}


@dataclass
class Scene:
    """What is looked at. `deadlines_s` may be tightened by a test, by the operation's kind."""

    system: System
    history: History = field(default_factory=History)
    deadlines_s: dict[str, float] = field(default_factory=dict)
    allowed: dict[str, set[int]] = field(default_factory=dict)  # beyond the documented statuses, by kind


def i1_acknowledged_statements_are_there(scene: Scene) -> Iterator[str]:
    """An acknowledged correction, confirmation, decision or prediction is never lost, and none is doubled."""
    with scene.system.db.reading() as session:
        for operation in scene.history.acknowledged("correct"):
            row = session.get(Correction, operation.id)
            if row is None:
                yield f"correction {operation.id} was acknowledged and is gone"
            elif (row.label, row.reporter) != (operation.sent["label"], operation.sent["reporter"]):
                yield f"correction {operation.id} says {row.label!r}, and {operation.sent} was sent"
        for table, kind in ((Confirmation, "confirm"), (Prediction, "predict")):
            for operation in scene.history.acknowledged(kind):
                if operation.id is None or session.get(table, operation.id) is None:
                    yield f"{kind} {operation.id} was acknowledged and is gone"
        yield from _find_lost_decisions(session, scene.history)
        yield from _find_doubled(session, scene.history)


def _find_lost_decisions(session: Session, history: History) -> Iterator[str]:
    for operation in history.acknowledged("decide"):
        query = select(func.count()).where(
            Decision.item_id == operation.sent["item"], Decision.action == operation.answer["action"]
        )
        if not session.scalar(query):
            yield f"the decision on item {operation.sent['item']} was acknowledged and is gone"


def _find_doubled(session: Session, history: History) -> Iterator[str]:
    by_key: dict[str, set[str | None]] = defaultdict(set)
    for operation in history.acknowledged("correct", "confirm", "train"):
        if key := operation.sent.get("key"):
            by_key[key].add(operation.id)
    for key, ids in by_key.items():
        if len(ids) > 1:
            yield f"Idempotency-Key {key} made {len(ids)} rows: {sorted(map(str, ids))}"
    tried: dict[tuple[str, str, str], list[Operation]] = defaultdict(list)
    for operation in history.of("correct"):
        sent = operation.sent
        tried[sent["prediction"], sent["reporter"], sent["label"]].append(operation)
    for (prediction, reporter, label), operations in tried.items():
        keys = [o.sent["key"] for o in operations]
        rows = session.scalar(
            select(func.count()).where(
                Correction.prediction_id == prediction,
                Correction.reporter == reporter,
                Correction.label == label,
            )
        )
        if all(keys) and (rows or 0) > len(set(keys)):
            yield f"{len(set(keys))} keys made {rows} corrections of prediction {prediction}"


def i2_snapshots_hold_each_sample_once_and_none_to_judge_on(scene: Scene) -> Iterator[str]:
    """A sample is in a run's snapshot at most once, and never from the eval side."""
    with scene.system.db.reading() as session:
        for snapshot in session.scalars(select(Snapshot)):
            doubled = [i for i, n in Counter(snapshot.sample_ids).items() if n > 1]
            if doubled:
                yield f"snapshot {snapshot.digest[:8]} holds sample {doubled[0]} more than once"
            rows = session.execute(
                select(Sample.id, Sample.split, ImageGroup.side)
                .join(
                    GroupMember,
                    (GroupMember.image_id == Sample.image_id) & (GroupMember.model_id == Sample.model_id),
                    isouter=True,
                )
                .join(ImageGroup, ImageGroup.id == GroupMember.group_id, isouter=True)
                .where(Sample.id.in_(snapshot.sample_ids))
            ).all()
            for row in rows:
                if row.split not in (Split.TRAIN, Split.VALIDATION):
                    yield f"snapshot {snapshot.digest[:8]} holds sample {row.id} of split {row.split}"
                if row.side is not None and row.side != row.split:
                    yield f"sample {row.id} of split {row.split} lies on side {row.side}"
            judged = session.scalars(
                select(GroupMember.image_id)
                .join(ImageGroup, ImageGroup.id == GroupMember.group_id)
                .where(
                    GroupMember.model_id == snapshot.model_id,
                    GroupMember.image_id.in_(snapshot.stay_right_ids),
                    ImageGroup.side != Side.TRAIN,
                )
            ).all()
            if judged:
                yield f"snapshot {snapshot.digest[:8]} stays right on {len(judged)} images of another side"


def i3_one_active_run_per_model_and_kind(scene: Scene) -> Iterator[str]:
    """At most one active run per model and kind; one run per reason and retry."""
    with scene.system.db.reading() as session:
        active = select(Run.model_id, Run.kind).where(Run.state.in_(ACTIVE_RUN_STATES))
        for key, number in Counter(session.execute(active).all()).items():
            if number > 1:
                yield f"{number} active runs of model and kind {tuple(key)}"
        reasons = select(Run.model_id, Run.kind, Run.trigger_key, Run.retry)
        for reason, number in Counter(session.execute(reasons).all()).items():
            if number > 1:
                yield f"{number} runs for {tuple(reason)}"


def i4_the_live_version_is_sound_and_earned(scene: Scene) -> Iterator[str]:
    """It exists, matches its sums, loads, and passed its gate, or is version 1, or a person promoted it."""
    with scene.system.db.reading() as session:
        loader = Loader(scene.system.versions, 1)
        for wanted in read_wanted(session):
            if wanted.artefact is None:
                continue
            try:
                loader.load(wanted)
            except BacktalkError as error:
                yield f"the live version of {wanted.name} does not load: {error.message}"
            entry = session.scalars(
                select(LedgerEntry)
                .where(LedgerEntry.model_id == wanted.model_id)
                .order_by(LedgerEntry.seq.desc())
                .limit(1)
            ).first()
            if entry is None or entry.version != wanted.artefact.number:
                yield f"{wanted.name} serves version {wanted.artefact.number}, the ledger ends elsewhere"
            elif not _is_earned(session, entry):
                yield f"version {entry.version} of {wanted.name} went live without passing its gate"
    for finding in verification.verify(scene.system):
        if finding.problem and finding.subject != "models.config":
            yield f"{finding.model}, {finding.subject}: {finding.problem}"


def _is_earned(session: Session, entry: LedgerEntry) -> bool:
    if entry.version == 1 or entry.action == "rollback" or entry.detail.get("by") == "person":
        return True
    run = session.get(Run, entry.run_id) if entry.run_id else None
    return run is not None and run.verdict == "passed"


def i5_the_ledger_has_no_gap(scene: Scene) -> Iterator[str]:
    """Per model: no gap, ends at `generation`, chain unbroken."""
    with scene.system.db.reading() as session:
        for model in session.scalars(select(Model).where(Model.live_version.is_not(None))):
            yield from (f"{model.name}: {said}" for said in find_breaks(session, model.id, model.generation))


def i6_predictions_name_their_version_and_replay(scene: Scene) -> Iterator[str]:
    """Each prediction names the version that made it, and replay gives the same scores.

    What a device made is what it says: its arithmetic is not ours to repeat.
    """
    with scene.system.db.reading() as session:
        for operation in scene.history.acknowledged("predict"):
            row = session.get(Prediction, operation.id)
            if row is None:
                continue  # I1 says so
            said = operation.answer["predictions"][0]
            if (row.version, row.label) != (int(operation.answer["version"]), said["label"]):
                answered = operation.answer["version"]
                yield f"prediction {row.id} was answered by version {answered}, noted as of {row.version}"
            if not np.array_equal(np.float32(row.scores), np.float32(said["scores"])):
                yield f"prediction {row.id} has other scores in its row than in its answer"
        yield from _replay(session, scene.system)


def _replay(session: Session, system: System) -> Iterator[str]:
    rows = session.execute(
        select(Prediction, Version, Image)
        .join(Version, (Version.model_id == Prediction.model_id) & (Version.number == Prediction.version))
        .join(Image, Image.id == Prediction.image_id)
        .where(Image.store_key.is_not(None), ~Prediction.made_elsewhere)
        .order_by(Prediction.id.desc())
        .limit(REPLAYED_AT_MOST)
    ).all()
    backbones: dict[str, Backbone] = {}
    for prediction, version, image in rows:
        digest = version.backbone_digest
        backbone = backbones.setdefault(digest, Backbone(system.versions.backbone_dir(digest), 1))
        try:
            scores = _score_again(system, backbone, version, image)
        except BacktalkError as error:
            yield f"prediction {prediction.id} cannot be replayed: {error.message}"
            continue
        if not np.array_equal(scores, np.float32(prediction.scores)):
            yield f"prediction {prediction.id} of version {version.number} replays with other scores"


def _score_again(system: System, backbone: Backbone, version: Version, image: Image) -> Any:
    head = Head.load(verification.locate(system, version) / "head.npz")
    assert image.store_key is not None  # the query asks for these only
    data = system.images.get(image.store_key)
    picture = images.decode(
        data, max_bytes=len(data), max_pixels=image.width * image.height, orientation=image.orientation
    )
    return head.scores(backbone.embed(images.to_input(picture.pixels, backbone.input_size)[None]))[0]


def i7_nothing_is_stuck(scene: Scene) -> Iterator[str]:
    """No run with a dead lease for two lease times; no approved correction without run, time or reason."""
    lease_s = scene.system.settings.lease_s
    with scene.system.db.reading() as session:
        dead = session.execute(
            text(
                "SELECT id, state, extract(epoch FROM now() - lease_until) AS ago FROM runs "
                "WHERE state = ANY(:states) AND lease_until < now() - make_interval(secs => :s)"
            ),
            {"states": [str(state) for state in ACTIVE_RUN_STATES], "s": 2 * lease_s},
        )
        for row in dead:
            yield f"run {row.id} is {row.state} with a lease that ended {row.ago:.1f} s ago"
        for model in session.scalars(select(Model)):
            newest = session.scalar(
                select(func.max(Decision.created_at)).where(Decision.model_id == model.id, Decision.counts)
            )
            last = session.scalar(select(func.max(TriggerCheck.at)).where(TriggerCheck.model_id == model.id))
            active = session.scalar(
                select(Run.id).where(Run.model_id == model.id, Run.state.in_(ACTIVE_RUN_STATES)).limit(1)
            )
            heard = last is not None and newest is not None and last >= newest
            if newest is not None and not heard and model.consider_at is None and active is None:
                yield f"{model.name} has an approved correction that nothing will ever look at"


def i8_attempts_are_bounded(scene: Scene) -> Iterator[str]:
    """Attempts ≤ maximum."""
    most = scene.system.settings.max_attempts
    with scene.system.db.reading() as session:
        for run in session.scalars(select(Run).where(Run.attempt > most)):
            yield f"run {run.id} had {run.attempt} attempts, and {most} are allowed"


def i9_the_disk_is_clean(scene: Scene) -> Iterator[str]:
    """After the upkeep has run, nothing lies in the stores that no row names, nor a run at work."""
    system = scene.system
    with mock.patch.object(upkeep, "LEFTOVER_AFTER_S", -1.0):
        upkeep.sweep(system)
    system.images.sweep(older_than_s=-1.0)
    with system.db.reading() as session:
        known = {(v.path, f"{v.path.split('/')[0]}/{v.number}") for v in session.scalars(select(Version))}
    allowed = {path for pair in known for path in pair}
    root = system.versions.root
    found = [*root.glob("*/.candidates/*"), *root.glob(".jobs/*"), *root.glob("[a-z0-9]*/[0-9]*")]
    with system.db.reading() as session:  # after the listing: one may begin at any time
        active = {str(run) for run in session.scalars(select(Run.id).where(Run.state.in_(ACTIVE_RUN_STATES)))}
    for path in found:
        if path.relative_to(root).as_posix() not in allowed and path.name.rpartition("-")[0] not in active:
            yield f"{path.relative_to(root)} lies in the store, and no row names it"
    torn = re.compile(r"\.gone-|\.[^/]*\.[0-9a-f]{32}$")
    for path in [*root.rglob(".*"), *system.images.root.glob(".incoming/*")]:
        if torn.search(path.name) or path.parent.name == ".incoming":
            yield f"{path.name} is left of a write or removal that broke off"
    yield from _find_unnamed_numbers(system)


def _find_unnamed_numbers(system: System) -> Iterator[str]:
    with system.db.reading() as session:
        for name, live in session.execute(select(Model.name, Model.live_version)):
            named = system.versions.read_models_config().get(name)
            if live is not None and named != live:
                yield f"models.config names version {named} of {name}, live is {live}"


def i10_only_documented_statuses_in_time(scene: Scene) -> Iterator[str]:
    """Only documented statuses, each within its deadline. No answer at all is the fault, not a status."""
    for operation in scene.history:
        if operation.status is not None:
            allowed = documented(scene.system, operation.method, operation.path) | scene.allowed.get(
                operation.kind, set()
            )
            if operation.status not in allowed:
                yield f"{operation.method} {operation.path} answered {operation.status}: {operation.answer}"
        deadline_s = (DEADLINES_S | scene.deadlines_s).get(operation.kind, 30.0)
        if operation.seconds > deadline_s:
            yield f"{operation.kind} {operation.number} took {operation.seconds:.1f} s, not {deadline_s:.1f}"


_DOCUMENT: dict[str, Any] = {}


def documented(system: System, method: str, path: str) -> set[int]:
    """The statuses that `/openapi.json` lists for the operation behind a path."""
    if not _DOCUMENT:
        from services.api.app import make_app
        from services.backend import Backend

        alone = replace(system, settings=system.settings.model_copy(update={"redis_url": None}))
        _DOCUMENT.update(make_app(Backend(alone, LiveModels(alone))).api_doc)
    best: set[int] = set()
    for template, operations in _DOCUMENT["paths"].items():
        pattern = "".join(
            "[^/:]+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^}]+\})", template)
        )
        if re.fullmatch(pattern, path.split("?", maxsplit=1)[0]) and method.lower() in operations:
            best |= {int(code) for code in operations[method.lower()]["responses"] if code.isdecimal()}
    return best


Invariant = Callable[[Scene], Iterator[str]]

INVARIANTS: dict[str, Invariant] = {
    "I1": i1_acknowledged_statements_are_there,
    "I2": i2_snapshots_hold_each_sample_once_and_none_to_judge_on,
    "I3": i3_one_active_run_per_model_and_kind,
    "I4": i4_the_live_version_is_sound_and_earned,
    "I5": i5_the_ledger_has_no_gap,
    "I6": i6_predictions_name_their_version_and_replay,
    "I7": i7_nothing_is_stuck,
    "I8": i8_attempts_are_bounded,
    "I9": i9_the_disk_is_clean,
    "I10": i10_only_documented_statuses_in_time,
}


def check(scene: Scene, names: tuple[str, ...] = tuple(INVARIANTS)) -> dict[str, list[str]]:
    """What is broken, by invariant; an empty list where it holds."""
    return {name: list(INVARIANTS[name](scene)) for name in names}
