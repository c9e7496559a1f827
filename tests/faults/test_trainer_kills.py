"""kill -9 of workers and trainers at every step from the claim to the verdict: the run ends all the same."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func

from backtalk import sweeper, triggers
from backtalk.callers import CLI
from backtalk.errors import TrainerFailed
from backtalk.states import ACTIVE_RUN_STATES, RunKind, RunState
from backtalk.tables import Run
from backtalk.trainers import Trainer
from tests.faults.lessons import get_model, list_leftovers, reload, request_run, teach
from tests.faults.rig import ROOT, Rig
from tests.lessons import School

#: Of the worker's child that runs the task, of the trainer, and of the events worker that judges.
STEPS = (
    "training.after_claim", "training.snapshot.before_commit", "training.snapshot.after_commit",
    "training.after_job", "trainer.before_fit", "trainer.after_fit", "trainer.after_saved_model",
    "trainer.before_sums", "trainer.after_sums", "training.before_verify",
    "training.hand_over.before_commit", "training.hand_over.after_commit",
    "judging.after_claim", "judging.before_commit", "judging.after_commit",
)  # fmt: skip
QUICK = STEPS[:4]

TRAIN = """
import sys
from backtalk import bootstrap, training
from backtalk.config import Settings
from backtalk.trainers import Trainers
training.train_run(bootstrap.build(Settings.load()), Trainers(warm=False), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.fault(row=1, tries=len(QUICK), only="up to the trainer's job")
def test_a_worker_killed_before_its_trainer_began_leaves_a_run_that_others_take_up(rig: Rig) -> None:
    system = rig.use("served", max_attempts=str(len(QUICK))).system
    teach(system)
    run = request_run(system)
    for attempt, step in enumerate(QUICK, 1):
        env = rig.environment(f"{step}=kill")
        command = [sys.executable, "-c", TRAIN, str(run.id)]
        assert subprocess.run(command, env=env, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        left = reload(system, run)
        assert (left.state, left.attempt) == (RunState.TRAINING, attempt)
        with system.db.transaction() as session:  # as if time had passed
            session.get_one(Run, run.id).lease_until = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)
        with system.db.transaction() as session:
            sweeper.sweep_runs(session, system.settings)
    ended = reload(system, run)
    assert (ended.state, (ended.reason or "")[:28]) == (RunState.FAILED, "Quarantined after 4 attempts")
    assert rig.check() == {}
    assert list_leftovers(system) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.fault(row=1, tries=len(STEPS))
def test_a_run_whose_owner_is_killed_at_each_step_is_judged_in_the_end(rig: Rig) -> None:
    rig.use("digits", ring_again_s="1", lease_s="3", max_attempts=str(len(STEPS) + 5))
    orders = ";".join(f"{step}=kill@once" for step in STEPS)
    rig.start_all("relay", "beat")
    rig.start_all("events", "training-head", failpoints=orders)
    rig.revives = True
    run = request_run(rig.system)
    rig.wait_for(lambda: reload(rig.system, run).state not in ACTIVE_RUN_STATES, 600)
    ended = reload(rig.system, run)
    assert ended.state in (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED), ended.reason
    assert set(STEPS) <= set(rig.hit_names())
    assert ended.attempt > 3
    rig.settle()
    assert rig.check() == {}


# --- full runs ---------------------------------------------------------------------------------------
#: Each kills an attempt of its own, and the next goes on from what it left.
KILLS = (
    "trainer.after_step=kill@2", "checkpoint.before_sums=kill@2", "checkpoint.before_rename=kill@2",
    "checkpoint.after_rename=kill@2", "trainer.after_step=kill@1",
)  # fmt: skip


def tune(lesson: Path) -> dict:
    """One attempt in a trainer of its own. Raises TrainerFailed where it died."""
    trainer = Trainer.start_tuner()
    try:
        return trainer.call({"do": "tune", "lesson": str(lesson)})
    finally:
        trainer.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(row=1, tries=len(KILLS))
def test_a_full_run_killed_at_steps_and_checkpoints_ends_in_the_very_same_weights(
    rig: Rig, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school = School.set_up(tmp_path, tiny_folder)
    plain = tune(school.write_lesson("plain"))
    monkeypatch.setenv("BACKTALK_FAILPOINT_LOG", str(rig.hits))
    for fence, order in enumerate(KILLS, 1):
        monkeypatch.setenv("BACKTALK_FAILPOINTS", order)
        with pytest.raises(TrainerFailed, match="SIGKILL"):
            tune(school.write_lesson("killed", fence=fence))
    monkeypatch.delenv("BACKTALK_FAILPOINTS")
    resumed = tune(school.write_lesson("killed", fence=len(KILLS) + 1))
    one, two = (school.weights(made["backbone"]["digest"]) for made in (plain, resumed))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert plain["backbone"]["digest"] == resumed["backbone"]["digest"]
    assert json.dumps(plain["tuning"]["history"]) == json.dumps(resumed["tuning"]["history"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(row=1, tries=4)
def test_a_full_run_by_the_whole_road_survives_the_deaths_of_its_trainer(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "fast.yaml").write_text("epochs: 2\nbatch_size: 16\ncheckpoint_s: 0\n")
    rig.use("digits", ring_again_s="1", lease_s="3", max_attempts="6", recipes=str(tmp_path))
    steps = (
        "trainer.after_step",
        "checkpoint.before_sums",
        "checkpoint.before_rename",
        "checkpoint.after_rename",
    )
    rig.start_all("relay", "beat", "events")
    rig.start("training-full", failpoints=";".join(f"{step}=kill@once" for step in steps))
    with rig.system.db.transaction() as session:
        model = get_model(rig.system)
        run = triggers.request_run(session, model=model, kind=RunKind.FULL, caller=CLI, recipe="fast")
    rig.wait_for(lambda: reload(rig.system, run).state not in ACTIVE_RUN_STATES, 400)
    ended = reload(rig.system, run)
    assert ended.state in (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED), ended.reason
    assert ended.attempt == len(steps) + 1
    rig.settle()
    assert rig.check() == {}
    assert list(rig.system.versions.root.glob(".training/*")) == []
