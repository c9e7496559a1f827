"""Full runs by the whole road: asked for, tuned, embedded anew, judged, live, and back."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import creation, promotion, training, triggers, tuning, verification
from backtalk.backboning import BackboneWish
from backtalk.callers import CLI
from backtalk.config import Settings
from backtalk.live import LiveVersions
from backtalk.loading import Loader
from backtalk.states import Origin, RunKind, RunState, Split
from backtalk.system import System
from backtalk.tables import Model, Run, Sample, Version
from backtalk.trainers import Trainers
from tests.acceptance.digits import Digits

#: So wide that nothing is refused for being worse; what the data cannot tell, a person makes live.
LENIENT: dict[str, Any] = {
    "margin": 0.99,
    "confidence": 0.999999999,
    "max_recall_loss": 1.0,
    "max_brier_loss": 2.0,
    "max_size_ratio": 100.0,
    "max_latency_ratio": 100.0,
}
FAST = "epochs: 2\nbatch_size: 16\nlearning_rate: 0.0005\n"


@pytest.fixture(scope="module")
def trainers() -> Iterator[Trainers]:
    trainers = Trainers(warm=True)
    yield trainers
    trainers.close()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "fast.yaml").write_text(FAST)
    return settings.model_copy(update={"recipes": folder})


@pytest.fixture
def home(settings: Settings, tiny_folder: Path) -> Path:
    shutil.copytree(tiny_folder, settings.store_path / "_backbones" / tiny_folder.name)
    return settings.home


def create(system: System, trainers: Trainers, folder: Path, backbone: str | BackboneWish = "tiny") -> None:
    images = Digits().write_folder(120, folder)
    creation.create_model(system, trainers, name="digits", folder=images, backbone=backbone)


def request(system: System, recipe: str = "fast") -> Run:
    with system.db.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == "digits")).one()
        return triggers.request_run(session, model=model, kind=RunKind.FULL, caller=CLI, recipe=recipe)


def reload(system: System, run: Run) -> Run:
    with system.db.reading() as session:
        return session.get_one(Run, run.id)


def set_policy(system: System, **changes: Any) -> None:
    with system.db.transaction() as session:
        triggers.set_policy(session, session.scalars(select(Model)).one(), changes, CLI)


def judge(system: System, run: Run) -> Run:
    """Before the gate, and live if it passed."""
    promotion.judge_run(system, str(run.id))
    promotion.promote_run(system, str(run.id))
    return reload(system, run)


def go_live(system: System, ended: Run) -> None:
    """By a person, where the data could not tell."""
    assert ended.state in (RunState.PROMOTED, RunState.INCONCLUSIVE), ended.reason
    if ended.state == RunState.INCONCLUSIVE:
        promotion.promote_version(system, model_name="digits", number=ended.version or 0, caller=CLI)


def travel(system: System, trainers: Trainers, images: Path, backbone: str | BackboneWish) -> Run:
    """Train, judge, make live whatever the gate says, serve, and go back."""
    create(system, trainers, images, backbone)
    live = LiveVersions(system.db, Loader(system.versions, 1), 1.0)
    live.refresh()
    first = live.get_version("digits").backbone.digest
    run = request(system)
    training.train_run(system, trainers, str(run.id))
    trained = reload(system, run)
    assert trained.state == RunState.JUDGING, trained.reason
    promotion.judge_run(system, str(run.id))
    promotion.promote_run(system, str(run.id))
    ended = reload(system, run)
    assert ended.state in (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED), ended.reason
    if ended.state == RunState.INCONCLUSIVE:
        promotion.promote_version(system, model_name="digits", number=2, caller=CLI)
    if ended.state != RunState.REJECTED:
        live.refresh()
        served = live.get_version("digits")
        assert (served.number, served.backbone.digest != first) == (2, True)
        size = served.backbone.input_size
        scores = served.head.scores(served.backbone.embed(np.zeros((1, size, size, 3), np.uint8)))
        assert np.isfinite(scores).all()
        promotion.rollback_model(system, model_name="digits", caller=CLI)
        live.refresh()
        assert (live.get_version("digits").number, live.get_version("digits").backbone.digest) == (1, first)
    assert [f for f in verification.verify(system) if f.problem] == []
    live.close()
    return ended


def test_a_full_run_moves_the_backbone_by_its_recipe_and_the_api_swaps_to_it_and_back(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    ended = travel(system, trainers, tmp_path / "digits", "tiny")
    assert ended.recipe is not None
    assert (ended.recipe["name"], ended.recipe["content"]["epochs"]) == ("fast", 2)
    assert ended.recipe["content"]["threads"] >= 1
    with system.db.reading() as session:
        versions = session.scalars(select(Version).order_by(Version.number)).all()
    assert versions[0].backbone_digest != versions[1].backbone_digest
    facts = versions[1].metrics["tuning"]
    assert (facts["epochs"], facts["left_out"], facts["device"]) == (2, 0, "CPU")
    assert facts["memory_mb"] > 0
    root = system.versions.root
    assert [*root.glob(".training/*"), *root.glob(".jobs/*")] == []


def test_what_cannot_be_learned_from_fails_the_run_with_a_sentence(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    create(system, trainers, tmp_path / "digits")
    with system.db.transaction() as session:
        ones = session.scalars(select(Sample).where(Sample.split == Split.TRAIN, Sample.label == "one")).all()
        for sample in ones[1:]:
            session.delete(sample)
    run = request(system)
    training.train_run(system, trainers, str(run.id))
    failed = reload(system, run)
    assert failed.state == RunState.FAILED
    assert "'one' has 1" in (failed.reason or "")
    unknown = request(system, "nowhere")
    training.train_run(system, trainers, str(unknown.id))
    assert "There is no recipe 'nowhere'" in (reload(system, unknown).reason or "")
    assert list(system.versions.root.glob(".training/*")) == []
    with system.db.reading() as session:
        assert session.scalars(select(Model.live_version)).one() == 1


def test_a_student_whose_weights_are_not_to_be_had_fails_the_run_with_that_sentence(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    student = f"distil:\n  student: mobilenet-v3-small\n  weights: {tmp_path}/nowhere.h5\n"
    (tmp_path / "recipes" / "student.yaml").write_text(f"method: distil\n{student}")
    create(system, trainers, tmp_path / "digits")
    run = request(system, "student")
    training.train_run(system, trainers, str(run.id))  # and raises nothing: this is no fault of ours
    failed = reload(system, run)
    assert (failed.state, failed.reason) == (RunState.FAILED, f"There is no file {tmp_path}/nowhere.h5.")


def test_a_later_attempt_is_taught_by_the_champion_of_the_first_whatever_went_live_since(
    system: System, trainers: Trainers, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(system, trainers, tmp_path / "digits")
    with system.db.transaction() as session:  # an image that version 1 has not learned, and version 2 will
        new = session.scalars(select(Sample).where(Sample.split == Split.HOLDOUT).limit(1)).one()
        new.split, new.origin = Split.TRAIN, Origin.CORRECTION
    run = request(system)
    first = break_off(system, trainers, run, monkeypatch)
    assert first["train_seen"].sum() == len(first["train_seen"]) - 1
    make_live(system, trainers)
    second = break_off(system, trainers, run, monkeypatch)
    assert second.keys() == first.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert (reload(system, run).tuned_from, reload(system, run).attempt) == (1, 2)


def break_off(
    system: System, trainers: Trainers, run: Run, monkeypatch: pytest.MonkeyPatch
) -> dict[str, np.ndarray]:
    """An attempt whose trainer dies at its first step; what it was taught."""
    monkeypatch.setenv("BACKTALK_FAILPOINTS", "trainer.after_step=kill@1")
    training.train_run(system, trainers, str(run.id))
    monkeypatch.delenv("BACKTALK_FAILPOINTS")
    left = reload(system, run)
    assert left.state == RunState.QUEUED, left.reason
    lesson = tuning.get_work_folder(system.versions.root, run.id) / f"lesson-{left.fence}"
    with np.load(lesson / "targets.npz") as stored:
        return {name: stored[name] for name in stored.files}


def make_live(system: System, trainers: Trainers) -> None:
    """A head run's version, whatever the gate says of it."""
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        head = triggers.request_run(session, model=model, kind=RunKind.HEAD, caller=CLI)
    training.train_run(system, trainers, str(head.id))
    number = reload(system, head).version
    promotion.promote_version(system, model_name="digits", number=number, caller=CLI)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
        "resnet50",
        "mobilenet-v3-small",
        "mobilenet-v3-large",
        "efficientnet-v2-b0",
    ],
)
def test_every_architecture_goes_the_whole_road(
    system: System, trainers: Trainers, tmp_path: Path, name: str
) -> None:
    travel(system, trainers, tmp_path / "digits", BackboneWish(name, 32, "random"))
