"""Backbones of 8-bit integers: by the same road and gate as any other."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import devicefiles, promotion, training, triggers, tuning, verification
from backtalk.callers import CLI
from backtalk.errors import TrainerFailed
from backtalk.live import LiveVersions
from backtalk.loading import Loader
from backtalk.states import DeviceForm, RunState, VersionState
from backtalk.system import System
from backtalk.tables import Backbone, GateCheck, Model, OutboxEvent, Run, Version
from backtalk.trainers import Trainers
from tests.integration.test_full_runs import (
    LENIENT,
    create,
    go_live,
    home,
    judge,
    reload,
    request,
    set_policy,
    settings,
    trainers,
)

__all__ = ["home", "settings", "trainers"]

INT8 = "method: quantise\nquantise:\n  images: 20\nbudget:\n  size: 0.5\n  latency: 50\n"


def run(system: System, trainers: Trainers, recipe: str) -> Run:
    """Trained, judged, and promoted if it passed."""
    asked = request(system, recipe)
    training.train_run(system, trainers, str(asked.id))
    return judge(system, asked)


def checks(system: System, of: Run) -> dict[str, GateCheck]:
    with system.db.reading() as session:
        rows = session.scalars(select(GateCheck).where(GateCheck.run_id == of.id))
        return {row.check: row for row in rows}


def version(system: System, number: int) -> tuple[Version, Backbone]:
    with system.db.reading() as session:
        found = session.scalars(select(Version).where(Version.number == number)).one()
        return found, session.get_one(Backbone, found.backbone_digest)


@pytest.mark.slow
def test_an_8_bit_version_is_judged_as_equal_serves_and_shares_its_parent_s_saved_model(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipes" / "small.yaml").write_text(INT8)
    create(system, trainers, tmp_path / "digits")
    set_policy(system, serve_int8=False, margin=0.3)
    waiting = run(system, trainers, "small")
    assert waiting.state == RunState.PASSED, waiting.reason
    assert "serve_int8 is false" in (waiting.reason or "")
    candidate, backbone = version(system, 2)
    assert candidate.state == VersionState.CANDIDATE
    assert backbone.quantised_from == version(system, 1)[0].backbone_digest
    found = checks(system, waiting)
    assert found["size"].passed
    assert found["size"].value < 0.5
    assert found["latency"].passed
    assert found["fixed-broken"].passed is None  # it aims to be equal
    assert "float SavedModel" in found["artefact"].detail["sentence"]
    first, second = (system.versions.resolve(version(system, n)[0].path) for n in (1, 2))
    for name in ("saved_model.pb", "variables/variables.index", "assets/labels.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert '"saved_model_of_version": 1' in (second / "card.json").read_text()
    promotion.promote_version(system, model_name="digits", number=2, caller=CLI)
    live = LiveVersions(system.db, Loader(system.versions, 1), 1.0)
    live.refresh()
    served = live.get_version("digits")
    assert (served.number, served.backbone.digest) == (2, backbone.digest)
    size = served.backbone.input_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    scores = served.head.scores(served.backbone.embed(image))
    assert scores.sum() == pytest.approx(1.0, abs=1e-5)
    live.close()
    taken = devicefiles.export_file(
        system, model_name="digits", number=2, form=DeviceForm.INT8, out=tmp_path, caller=CLI
    )
    assert taken.checked["same_label"] >= 0.95
    assert taken.byte_size < 1.5 * served.backbone.byte_size  # the head on it, labels and metadata
    again = run(system, trainers, "small")
    assert again.state == RunState.FAILED
    assert "8-bit already" in (again.reason or "")
    assert [f for f in verification.verify(system) if f.problem] == []


def go_back_before(monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str, system: System) -> None:
    """A person makes version 1 live just before that step is made for the first time."""
    real = getattr(module, step)

    def first_back(*arguments: Any) -> Any:
        monkeypatch.setattr(module, step, real)
        promotion.rollback_model(system, model_name="digits", caller=CLI)
        return real(*arguments)

    monkeypatch.setattr(module, step, first_back)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before its head is fitted", "between two attempts", "before the verdict"])
def test_an_8_bit_copy_of_a_backbone_that_is_the_champion_s_no_longer_is_superseded(
    system: System,
    trainers: Trainers,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    (tmp_path / "recipes" / "small.yaml").write_text(INT8)
    create(system, trainers, tmp_path / "digits")
    set_policy(system, **LENIENT)
    go_live(system, run(system, trainers, "fast"))
    asked = request(system, "small")
    if when == "before its head is fitted":
        go_back_before(monkeypatch, training, "_prepare", system)
    elif when == "between two attempts":
        with monkeypatch.context() as broken:
            broken.setattr(tuning, "write_lesson", die)
            training.train_run(system, trainers, str(asked.id))
        assert reload(system, asked).state == RunState.QUEUED
        go_back_before(monkeypatch, training, "tune_backbone", system)
        monkeypatch.setattr(tuning, "write_lesson", refuse)
    else:
        go_back_before(monkeypatch, promotion, "get_contest", system)
    training.train_run(system, trainers, str(asked.id))
    ended = judge(system, asked)
    assert ended.state == RunState.SUPERSEDED, ended.reason
    assert ended.reason == "The backbone changed with version 1 while its 8-bit copy was being made."
    with system.db.reading() as session:
        events = session.scalars(select(OutboxEvent.event).order_by(OutboxEvent.id)).all()
        candidates = session.scalars(select(Version.state).where(Version.number > 2)).all()
    assert events[-1] == "RunEnded"  # whose message has triggers considered anew
    assert candidates == ([VersionState.REJECTED] if when == "before the verdict" else [])
    assert list(system.versions.root.glob(".training/*")) == []


def die(*_: Any) -> None:
    raise TrainerFailed("The trainer was killed.", status=-9)


def refuse(*_: Any) -> None:
    raise AssertionError("this attempt should have ended before")


@pytest.mark.slow
def test_head_and_full_runs_go_on_from_an_8_bit_champion(
    system: System, trainers: Trainers, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipes" / "small.yaml").write_text(INT8)
    create(system, trainers, tmp_path / "digits")
    set_policy(system, margin=0.3)
    assert run(system, trainers, "small").state == RunState.PROMOTED
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        head = triggers.request_run(session, model=model, kind="head", caller=CLI)
    training.train_run(system, trainers, str(head.id))
    assert reload(system, head).state == RunState.JUDGING, reload(system, head).reason
    promotion.judge_run(system, str(head.id))
    assert version(system, 3)[1].quantised_from is not None
    (tmp_path / "recipes" / "on.yaml").write_text("start: champion\nepochs: 1\nbatch_size: 16\n")
    full = run(system, trainers, "on")
    assert full.state in (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED), full.reason
    assert version(system, full.version or 0)[1].quantised_from is None
