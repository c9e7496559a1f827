"""What the pages of evidence show of a history: heads and files on disk, a holdout, pictures that flipped.

Each holdout picture has a direction of its own as embedding, so a head can be made to say of it whatever the
history tells. The verdicts are then given anew, by the real gate over the real answers.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from backtalk import gate, states, sums
from backtalk.comparison import compare_versions
from backtalk.embeddings import save_embeddings
from backtalk.heads import Head
from backtalk.policy import Policy
from backtalk.runtime import FLATBUFFER
from backtalk.states import Action, CorrectionState, Origin, RunState, Split
from backtalk.system import System
from backtalk.tables import Backbone, Decision, GateCheck, Image, Model, Run, Sample, Version
from tests import factories, showroom
from tests.showroom import HOLDOUT, STORY

WIDTH = HOLDOUT
MISTAKES = 80
Flags = NDArray[np.bool_]


def add_exhibits(
    system: System, name: str, pictures: Sequence[bytes] = (), *, judged: Sequence[int] = (5,)
) -> None:
    """For the model `name` with `showroom.add_history`; `pictures` go to flips, the rest have none.

    `judged`: versions whose verdict is given anew on these pictures.
    """
    with system.db.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        digest = _add_backbone(session, system)
        session.execute(update(Version).where(Version.model_id == model.id).values(backbone_digest=digest))
        rng = np.random.default_rng(7)
        truth = rng.integers(0, len(model.labels), HOLDOUT)
        right = _tell_story(session, model)
        heads = _make_heads(rng, model, digest, truth, right)
        _add_holdout(session, system, model, truth, digest, _order(right), pictures)
        for version in session.scalars(select(Version).where(Version.model_id == model.id)):
            _write_artefact(system, model, version, heads)
        session.flush()
        for run in session.scalars(select(Run).where(Run.model_id == model.id, Run.version.in_(judged))):
            _judge_anew(session, system, model, run)


def _add_backbone(session: Session, system: System) -> str:
    data = b"not a network, but the bytes of one\n" * 400
    digest = sha256(data).hexdigest()
    folder = system.versions.backbone_dir(digest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLATBUFFER).write_bytes(data)
    if session.get(Backbone, digest) is None:
        factories.make_backbone(session, digest, width=WIDTH, name="efficientnet-lite0")
    return digest


def _tell_story(session: Session, model: Model) -> dict[int, Flags]:
    """Which holdout pictures each version reads right: as often fixed and broken as the story says."""
    first = np.full(HOLDOUT, True)
    first[: HOLDOUT // 4] = False
    right = {1: first}
    runs = session.scalars(select(Run).where(Run.model_id == model.id).order_by(Run.created_at))
    for run, tried in zip(runs, STORY, strict=False):
        assert run.version is not None
        assert run.base_version is not None
        after = right[run.base_version].copy()
        after[np.flatnonzero(~after)[: tried.fixed]] = True
        after[np.flatnonzero(right[run.base_version])[-tried.broken :]] = False
        right[run.version] = after
    return right


def _order(right: dict[int, Flags]) -> list[int]:
    """Rows that the newest version broke and fixed against version 2, by turns, then all others."""
    before, after = right[2], right[max(right)]
    fixed, broken = np.flatnonzero(after & ~before), np.flatnonzero(before & ~after)
    flipped = [int(row) for pair in zip(broken, fixed, strict=False) for row in pair]
    return [*flipped, *np.setdiff1d(np.arange(HOLDOUT), flipped).tolist()]


def _add_holdout(
    session: Session,
    system: System,
    model: Model,
    truth: NDArray[np.int64],
    digest: str,
    order: Sequence[int],
    pictures: Sequence[bytes],
) -> None:
    shown = dict(zip(order, pictures, strict=False))
    images = [
        showroom.keep_picture(session, system, shown[row]) if row in shown else _make_image(row)
        for row in range(HOLDOUT + MISTAKES)
    ]
    session.add_all(images)
    session.flush()
    labels = [model.labels[int(label)] for label in truth] + [model.labels[0]] * MISTAKES
    session.add_all(
        Sample(
            model_id=model.id,
            image_id=image.id,
            label=label,
            split=Split.HOLDOUT if row < HOLDOUT else Split.REGRESSION,
            origin=Origin.BASE if row < HOLDOUT else Origin.CORRECTION,
            by_person=True,
        )
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    seen = [image.id for image in images[:HOLDOUT]]
    save_embeddings(session, digest, seen, np.eye(HOLDOUT, dtype=np.float16))


def _make_image(row: int) -> Image:
    digest = sha256(b"%d" % row).hexdigest()
    return Image(pixels_sha256=digest, perceptual_hash=row, width=32, height=32, byte_size=1000)


def _make_heads(
    rng: np.random.Generator, model: Model, digest: str, truth: NDArray[np.int64], right: dict[int, Flags]
) -> dict[int, Head]:
    heads = {}
    labels, bias = tuple(model.labels), np.zeros(len(model.labels), np.float32)
    for number, flags in right.items():
        said = np.where(flags, truth, (truth + 1) % len(model.labels))
        sure = np.where(flags, rng.uniform(0.7, 4.5, HOLDOUT), rng.uniform(0.2, 2.4, HOLDOUT))
        weights = np.zeros((len(model.labels), WIDTH), np.float32)
        weights[said, np.arange(HOLDOUT)] = sure
        heads[number] = Head(weights, bias, 1.0, labels, digest)
    return heads


def _write_artefact(system: System, model: Model, version: Version, heads: dict[int, Head]) -> None:
    folder = system.versions.resolve(version.path)
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph" * 30_000)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(4 * 2 * WIDTH))
    (folder / "assets" / "labels.txt").write_text("".join(f"{label}\n" for label in model.labels))
    heads[version.number].save(folder / "head.npz")
    card = {
        "model": model.name,
        "version": version.number,
        "run": str(version.run_id) if version.run_id else None,
        "parent": version.parent,
        "seed": 1234 + version.number,
        "backbone_digest": version.backbone_digest,
        "chosen": version.metrics.get("chosen"),
        "code": "0.4.0",
        "libraries": {"numpy": "2.3.5", "tensorflow": "2.21.0"},
    }
    (folder / "card.json").write_text(json.dumps(card))
    version.artefact_digest = sums.write_sums(folder)


def _judge_anew(session: Session, system: System, model: Model, run: Run) -> None:
    """The showroom's verdict on made-up answers becomes one on these, which keep their pictures' ids."""
    if run.state not in states.VERDICT_RUN_STATES:
        return
    versions = [
        session.scalars(select(Version).where(Version.model_id == model.id, Version.number == number)).one()
        for number in (run.base_version, run.version)
    ]
    found = compare_versions(session, system, model, *versions)
    evidence = gate.Evidence(
        labels=tuple(model.labels),
        holdout=found.answers,
        regression=_answer_mistakes(session, model),
        kept=showroom._answer(np.random.default_rng(3), len(model.labels), 12, 0, 0),
        served_before=3,
        new_share=0.4,
    )
    session.execute(delete(GateCheck).where(GateCheck.run_id == run.id))
    for check in gate.judge(evidence, Policy.parse(model.policy)).checks:
        factories.add(session, GateCheck(run_id=run.id, round=1, **vars(check)))


def _answer_mistakes(session: Session, model: Model) -> gate.Answers:
    """Reported mistakes, whose pixels are not kept: 22 fixed, 3 broken."""
    rows = select(Sample.image_id).where(Sample.model_id == model.id, Sample.split == Split.REGRESSION)
    ids = tuple(str(image_id) for image_id in session.scalars(rows.order_by(Sample.id)))
    answers = showroom._answer(np.random.default_rng(5), len(model.labels), len(ids), 22, 3)
    return replace(answers, image_ids=ids)


# --- live traffic ------------------------------------------------------------------------------
def add_traffic(session: Session, model: Model, days: int = 30, a_day: int = 60) -> None:
    """Predictions by day, fewer and fewer of them corrected, and audits of the newest versions answered.

    The last verdict has consumed what was decided of them.
    """
    rng = np.random.default_rng(11)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=1, microsecond=0)
    image = factories.make_image(session)
    for back in range(days - 1, -1, -1):
        version = 1 if back > days // 2 else model.live_version or 1
        for i in range(a_day + int(rng.integers(0, 20))):
            at = start - timedelta(days=back) + timedelta(milliseconds=i)
            wrong = rng.random() < 0.05 + 0.2 * back / days
            _predict(session, model, image, version, at, wrong=bool(wrong), nth=i)
    newest = session.scalar(select(func.max(Decision.id)).where(Decision.model_id == model.id))
    session.execute(
        update(Run)
        .where(Run.model_id == model.id, Run.state == RunState.PROMOTED)
        .values(decision_cut=newest or 0)
    )


def _predict(
    session: Session, model: Model, image: Image, version: int, at: datetime, *, wrong: bool, nth: int
) -> None:
    """Every twelfth is drawn and answered; of the wrong ones every third is reported."""
    audit = nth % 12 == 0
    prediction = factories.make_prediction(session, model, image, version=version, created_at=at, audit=audit)
    right = model.labels[-1] if wrong else prediction.label
    if wrong and nth % 3 == 0:
        factories.make_correction(session, prediction, right, state=CorrectionState.APPROVED, created_at=at)
    if audit:
        item = factories.make_item(session, prediction, closed_at=at)
        action = Action.RELABEL if wrong else Action.APPROVE
        factories.make_decision(session, model, right, item=item, action=action, created_at=at)


def write_foreign_head(path: Path, digest: str, labels: Sequence[str]) -> None:
    """A head on a backbone that has embedded no picture."""
    weights = np.zeros((len(labels), 16), np.float32)
    Head(weights, np.zeros(len(labels), np.float32), 1.0, tuple(labels), digest).save(path)
