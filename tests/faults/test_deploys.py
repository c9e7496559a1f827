"""SIGTERM to everything, as a deploy sends it: answers are given, runs given back, and all goes on."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import triggers
from backtalk.callers import CLI
from backtalk.states import RunKind, RunState
from backtalk.store import write_sums
from backtalk.tables import Model, Run
from tests.faults.lessons import get_model, give_golden, reload, request_run, teach
from tests.faults.load import count_unprepared, under_load
from tests.faults.rig import Rig

JUDGED = (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED, RunState.PASSED)
TRAINER = "backtalk.learn.trainer"
ALL = ("api", "relay", "beat", "events", "training-head")


def stop_all(rig: Rig) -> dict[str, int]:
    """SIGTERM to every process at once; the status that each ends with."""
    for part in rig.parts.values():
        part.terminate()
    return {name: part.wait(60) for name, part in rig.parts.items()}


@pytest.mark.slow
@pytest.mark.fault(row=22)
def test_sigterm_to_everything_under_load_fails_no_request_and_charges_no_attempt(rig: Rig) -> None:
    rig.use("served", ring_again_s="2")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all(*ALL, failpoints="trainer.before_fit=sleep:120@once")
    run = request_run(rig.system)
    with under_load(rig) as load:
        rig.wait_for(lambda: load.done > 5 and "trainer.before_fit" in rig.hit_names(), 60)
        trainers = rig["training-head"].below(TRAINER)
        statuses = stop_all(rig)
        assert statuses == dict.fromkeys(ALL, 0), rig.describe()
        assert not any(trainer.is_running() for trainer in trainers)
        given_back = reload(rig.system, run)
        assert (given_back.state, given_back.attempt) == (RunState.QUEUED, 0)
        rig.start_all(*ALL)
        done = load.done
        rig.wait_for(lambda: load.done > done + 10, 30)
    # Whoever came while nobody listened was refused at once; whoever was let in was answered.
    failed = [o for o in rig.history.of("predict", "correct") if o.status not in (200, 201)]
    assert [o for o in failed if o.error is None or not o.error.startswith("ConnectError")] == []
    rig.wait_for(lambda: count_unprepared(rig) == 0, 60)
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 90)
    ended = reload(rig.system, run)
    assert (ended.state in JUDGED, ended.attempt) == (True, 1), ended.reason
    rig.settle()
    assert rig.check() == {}


# --- full runs -------------------------------------------------------------------------------------
def begin_full_run(rig: Rig) -> Run:
    """One that a slow worker has begun, and gave back on SIGTERM after some steps."""
    recipes = rig.folder / "recipes"
    rig.use("digits", ring_again_s="2", recipes=str(recipes))
    recipes.mkdir()
    (recipes / "short.yaml").write_text("epochs: 2\nbatch_size: 16\ncheckpoint_s: 1000\n")
    rig.start_all("relay", "beat", "events")
    worker = rig.start("training-full", failpoints="trainer.after_step=sleep:0.5")
    with rig.system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        run = triggers.request_run(session, model=model, kind=RunKind.FULL, caller=CLI, recipe="short")
    rig.wait_for(lambda: count_steps(rig) > 2, 120)
    worker.terminate()
    assert worker.wait(60) == 0, worker.said()[-3000:]
    given_back = reload(rig.system, run)
    assert (given_back.state, given_back.attempt) == (RunState.QUEUED, 0)
    return run


def count_steps(rig: Rig) -> int:
    return rig.hit_names().count("trainer.after_step")


def find_checkpoint(rig: Rig, run: Run) -> Path:
    """The newest."""
    work = rig.system.versions.root / ".training" / str(run.id)
    return max(work.glob("checkpoints/0*"))


@pytest.mark.slow
@pytest.mark.fault(row=22, only="a full run")
def test_sigterm_to_the_worker_of_a_full_run_leaves_a_checkpoint_to_go_on_from(rig: Rig) -> None:
    run = begin_full_run(rig)
    assert find_checkpoint(rig, run).name == f"{count_steps(rig):09d}-1"
    rig.start("training-full")
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 120)
    ended = reload(rig.system, run)
    assert (ended.state in JUDGED, ended.attempt) == (True, 1), ended.reason
    assert count_steps(rig) == ended.progress["steps"]  # none was repeated
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=24)
def test_a_full_run_whose_loss_is_no_number_fails_with_the_step_and_the_champion_stays(rig: Rig) -> None:
    """Its weights go astray between two attempts: no recipe was found that makes such small nets diverge."""
    run = begin_full_run(rig)
    spoil(find_checkpoint(rig, run))
    step = count_steps(rig) + 1
    rig.start("training-full")
    rig.wait_for(lambda: reload(rig.system, run).ended_at, 120)
    failed = reload(rig.system, run)
    assert (failed.state, failed.attempt) == (RunState.FAILED, 1)
    assert failed.reason is not None
    assert f"no number at step {step}," in failed.reason
    model = get_model(rig.system)
    assert (model.live_version, model.generation) == (1, 1)
    assert rig.check() == {}


def spoil(checkpoint: Path) -> None:
    """Whole, verified, and worth nothing."""
    with np.load(checkpoint / "state.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    learned = {name: np.full_like(a, np.nan) for name, a in arrays.items() if name.startswith("learned/")}
    np.savez(checkpoint / "state.npz", **(arrays | learned))
    write_sums(checkpoint)
