"""From a folder to a live version, and from decisions to the next: the real trainer, the tiny backbone."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from backtalk import (
    creation,
    feedback,
    promotion,
    review,
    runs,
    sweeper,
    training,
    triggers,
    verification,
)
from backtalk.callers import CLI, Caller
from backtalk.config import Settings
from backtalk.errors import BadFolder, InvalidName, NameTaken
from backtalk.heads import Head
from backtalk.receipts import get_receipt
from backtalk.states import Action, RunKind, RunState, Scope, Split
from backtalk.system import System
from backtalk.tables import (
    GroupMember,
    Image,
    ImageGroup,
    Model,
    Prediction,
    ReviewItem,
    Run,
    Sample,
    Snapshot,
    Version,
)
from backtalk.trainers import Trainer, Trainers
from tests.acceptance.digits import Digits

ALICE = Caller("user:alice", "alice", frozenset({Scope.REVIEW}))
APP = Caller("key:app", "app", frozenset({Scope.FEEDBACK}), key_id="app")


@pytest.fixture(scope="module")
def trainers() -> Iterator[Trainers]:
    """One warm trainer for the module: TensorFlow is loaded once."""
    trainers = Trainers(warm=True)
    yield trainers
    trainers.close()


@pytest.fixture
def home(settings: Settings, tiny_folder: Path) -> Path:
    """A store that has the backbone already."""
    shutil.copytree(tiny_folder, settings.store_path / "_backbones" / tiny_folder.name)
    return settings.home


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return Digits().write_folder(300, tmp_path / "digits")


def create(system: System, trainers: Trainers, folder: Path, **values) -> creation.Created:
    values = {"name": "digits", "backbone": "tiny", "policy": {"debounce_s": 0, "cooldown_s": 0}} | values
    return creation.create_model(system, trainers, folder=folder, **values)


def correct_some(system: System, count: int) -> list[str]:
    """Corrections on images of the model's own base: the rows are what matters here, not the pictures."""
    corrections = []
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        samples = session.scalars(
            select(Sample).where(Sample.split == Split.TRAIN).order_by(Sample.id).limit(count)
        )
        for sample in samples.all():
            wrong = next(label for label in model.labels if label != sample.label)
            prediction = Prediction(
                model_id=model.id,
                version=1,
                image_id=sample.image_id,
                label=wrong,
                scores=[0.5] * len(model.labels),
                key_id="app",
            )
            session.add(prediction)
            session.flush()
            correction = feedback.record_correction(
                session, caller=APP, prediction_id=str(prediction.id), label=sample.label
            )
            review.prepare_prediction(session, str(prediction.id))
            corrections.append(str(correction.id))
        for item in session.scalars(select(ReviewItem).where(ReviewItem.closed_at.is_(None))).all():
            review.decide_item(
                session, caller=ALICE, item_id=str(item.id), action=Action.APPROVE, if_match=f'"{item.etag}"'
            )
    return corrections


def request(system: System) -> Run:
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        return triggers.request_run(session, model=model, kind=RunKind.HEAD, caller=CLI)


def reload(system: System, run: Run) -> Run:
    with system.db.reading() as session:
        return session.get_one(Run, run.id)


def leftovers(system: System) -> list[str]:
    root = system.versions.root
    return [str(p.relative_to(root)) for p in [*root.glob("*/.candidates/*"), *root.glob(".jobs/*")]]


def test_a_folder_becomes_a_model_with_a_verified_live_version(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    (digits / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (digits / "one" / "notes.txt").write_text("not an image")
    steps = []
    created = create(system, trainers, digits, report=lambda step, done, total: steps.append(step))
    assert created.labels == ["one", "zero"]
    assert {p.name for p, _ in created.skipped} == {"broken.jpg", "notes.txt"}
    assert created.images + created.repeated == 300
    assert created.holdout_accuracy is not None
    assert created.holdout_accuracy > 0.8
    assert {"backbone", "images", "train", "save"} <= set(steps)
    assert [f for f in verification.verify(system) if f.problem] == []
    folder = system.versions.root / "digits" / "1"
    for name in ("saved_model.pb", "variables", "head.npz", "card.json", "SHA256SUMS", "assets/labels.txt"):
        assert (folder / name).exists(), name
    assert leftovers(system) == []


def test_near_duplicates_of_a_first_image_are_on_its_side(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    create(system, trainers, digits)
    with system.db.reading() as session:
        rows = session.execute(
            select(Image.perceptual_hash, ImageGroup.perceptual_hash, ImageGroup.side, Sample.split)
            .join(GroupMember, GroupMember.image_id == Image.id)
            .join(ImageGroup, ImageGroup.id == GroupMember.group_id)
            .join(Sample, Sample.image_id == Image.id)
        ).all()
        straddling = session.scalars(select(GroupMember.image_id).where(GroupMember.group_id.is_(None))).all()
        taught = set(session.scalars(select(Sample.image_id)))
    for own, first, side, split in rows:
        assert (own ^ first).bit_count() <= 4
        assert split == {"train": "train", "validation": "validation", "eval": "holdout"}[side]
    assert not taught & set(straddling)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: None, "no sub-folders"),
        (lambda f: (f / "one").mkdir(), "one label only"),
        (lambda f: [(f / n).mkdir() for n in ("one", "two")], "no readable image"),
    ],
)
def test_bad_folders_are_refused_with_a_sentence(
    system: System, trainers: Trainers, home: Path, tmp_path: Path, make, says: str
):
    folder = tmp_path / "bad"
    folder.mkdir()
    make(folder)
    with pytest.raises(BadFolder, match=says):
        create(system, trainers, folder)


def test_bad_and_taken_names_are_refused(system: System, trainers: Trainers, home: Path, digits: Path):
    with pytest.raises(InvalidName):
        create(system, trainers, digits, name="../x")
    create(system, trainers, digits)
    with pytest.raises(NameTaken):
        create(system, trainers, digits)
    assert (system.versions.root / "digits" / "1" / "head.npz").is_file()


def test_a_run_learns_from_the_corrections_and_its_receipt_says_so(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    create(system, trainers, digits)
    corrections = correct_some(system, 5)
    run = request(system)
    training.train_run(system, trainers, str(run.id))
    trained = reload(system, run)
    assert (trained.state, trained.version, trained.attempt) == (RunState.JUDGING, 2, 1)
    assert set(trained.progress["seconds"]) >= {"read", "fit", "export", "verify"}
    promotion.judge_run(system, str(run.id))
    promotion.promote_run(system, str(run.id))
    ended = reload(system, run)
    assert ended.state in (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED)
    with system.db.reading() as session:
        receipt = get_receipt(session, system.versions, corrections[0])
        assert (receipt.state, receipt.split, receipt.trained_in) == ("approved", "train", 2)
        assert receipt.live_in == (2 if ended.state == RunState.PROMOTED else None)
        assert receipt.fixed_now is not None
        snapshot = session.scalars(select(Snapshot).where(Snapshot.digest == ended.snapshot_digest)).one()
        splits = set(session.scalars(select(Sample.split).where(Sample.id.in_(snapshot.sample_ids))))
    assert splits <= {Split.TRAIN, Split.VALIDATION}
    assert [f for f in verification.verify(system) if f.problem] == []


def test_the_same_snapshot_and_seed_give_the_same_bits(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    create(system, trainers, digits)
    heads = []
    for _ in range(2):
        run = request(system)
        with system.db.transaction() as session:
            session.get_one(Run, run.id).seed = 11
        training.train_run(system, trainers, str(run.id))
        with system.db.transaction() as session:
            row = session.get_one(Run, run.id)
            version = session.scalars(select(Version).where(Version.number == row.version)).one()
            heads.append(Head.load(system.versions.resolve(version.path) / "head.npz"))
            row.state, row.ended_at = RunState.CANCELLED, func.now()
    assert np.array_equal(heads[0].weights, heads[1].weights)
    assert np.array_equal(heads[0].bias, heads[1].bias)
    assert heads[0].temperature == heads[1].temperature


def test_a_run_whose_trainer_is_killed_is_tried_again_and_gets_there(
    system: System, trainers: Trainers, home: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
):
    create(system, trainers, digits)
    call = Trainer.call

    def killed(self: Trainer, command: dict, *args, **kwargs):
        if command["do"] == "fit":
            os.kill(self.pid, signal.SIGKILL)
        return call(self, command, *args, **kwargs)

    run = request(system)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "call", killed)
        training.train_run(system, trainers, str(run.id))
    waiting = reload(system, run)
    assert (waiting.state, waiting.attempt) == (RunState.QUEUED, 1)
    assert leftovers(system) == []
    with system.db.reading() as session:
        assert session.scalars(select(Model.live_version)).one() == 1
    training.train_run(system, trainers, str(run.id))
    trained = reload(system, run)
    assert (trained.state, trained.attempt) == (RunState.JUDGING, 2)


def test_a_run_whose_owner_died_is_taken_over_until_its_attempts_are_used_up(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    create(system, trainers, digits)
    run = request(system)
    for attempt in range(1, system.settings.max_attempts + 1):
        with system.db.transaction() as session:
            claim = runs.claim_run(
                session,
                str(run.id),
                RunState.TRAINING,
                from_state=RunState.QUEUED,
                lease_s=60,
                max_attempts=system.settings.max_attempts,
            )
            assert claim is not None
            assert session.get_one(Run, run.id, populate_existing=True).attempt == attempt
        with system.db.transaction() as session:
            session.get_one(Run, run.id).lease_until = func.now()
        with system.db.transaction() as session:
            sweeper.sweep_runs(session, system.settings)
    ended = reload(system, run)
    assert (ended.state, ended.attempt) == (RunState.FAILED, system.settings.max_attempts)


def test_the_same_doorbell_in_parallel_trains_once(
    system: System, trainers: Trainers, home: Path, digits: Path
):
    create(system, trainers, digits)
    run = request(system)
    threads = [
        threading.Thread(target=training.train_run, args=(system, trainers, str(run.id))) for _ in range(5)
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    trained = reload(system, run)
    assert (trained.state, trained.attempt, trained.fence) == (RunState.JUDGING, 1, 1)


def test_a_zombie_owner_can_write_nothing_that_counts(
    system: System, trainers: Trainers, home: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
):
    """The lease runs out while the trainer works; when it comes back, the run has another fence."""
    create(system, trainers, digits)
    run = request(system)
    call = Trainer.call

    def overtaken(self: Trainer, command: dict, *args, **kwargs):
        answer = call(self, command, *args, **kwargs)
        if command["do"] == "verify":
            with system.db.transaction() as session:
                session.get_one(Run, run.id).fence += 1
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "call", overtaken)
        training.train_run(system, trainers, str(run.id))
    assert reload(system, run).state == RunState.TRAINING
    assert leftovers(system) == []
    with system.db.reading() as session:
        assert session.scalars(select(Version.number)).all() == [1]
