"""Workers and trainers that are killed, frozen and taken for dead, or live and get nowhere."""

import psutil
import pytest
from sqlalchemy import func

from backtalk.states import RunState
from backtalk.tables import Run
from tests.faults.lessons import get_model, give_golden, reload, request_run, teach
from tests.faults.load import count_rows
from tests.faults.rig import Part, Rig

JUDGED = (RunState.PROMOTED, RunState.INCONCLUSIVE, RunState.REJECTED, RunState.PASSED)
TRAINER = "backtalk.learn.trainer"


@pytest.fixture
def school(rig: Rig) -> Rig:
    """A model with samples to learn from; what takes up a run and judges it is there, who trains is not."""
    rig.use("served", ring_again_s="2")
    teach(rig.system, 20)
    give_golden(rig.system)
    rig.start_all("relay", "beat", "events")
    return rig


def await_hit(rig: Rig, name: str) -> None:
    """Until some process has come to a failpoint."""
    rig.wait_for(lambda: name in rig.hit_names(), 90)


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


# --- killed ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=2, tries=2)
def test_a_killed_worker_or_pool_child_takes_its_trainer_along_and_the_run_is_taken_up(school: Rig) -> None:
    sleeping = "trainer.before_fit=sleep:120@once;trainer.after_fit=sleep:120@once"
    worker = school.start("training-head", failpoints=sleeping)
    run = request_run(school.system)
    await_hit(school, "trainer.before_fit")
    below = worker.below()
    assert any(TRAINER in " ".join(p.cmdline()) for p in below)
    worker.kill()
    school.wait_for(lambda: are_gone(below), 10)
    worker = school.start("training-head", failpoints=sleeping)
    await_hit(school, "trainer.after_fit")
    child, trainer = find_pool_child(worker), worker.below(TRAINER)
    child.kill()
    school.wait_for(lambda: are_gone([child, *trainer]), 10)
    school.wait_for(lambda: reload(school.system, run).ended_at, 120)
    ended = reload(school.system, run)
    assert (ended.state in JUDGED, ended.attempt) == (True, 3), ended.reason
    assert worker.alive  # Celery forks another child
    assert school.check() == {}


def find_pool_child(worker: Part) -> psutil.Process:
    """Between Celery's main process and the trainer."""
    (child,) = [p for p in psutil.Process(worker.pid).children() if p.children()]
    return child


# --- frozen ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.fault(row=3, tries=2)
def test_what_a_frozen_owner_does_after_its_lease_counts_for_nothing(school: Rig) -> None:
    """One is frozen with its whole artefact in hand, one with its verdict still to give."""
    zombie = school.start("training-head", failpoints="trainer.after_sums=stop@once")
    judge = school.start("events", failpoints="judging.after_claim=stop@once")
    run = request_run(school.system)
    await_hit(school, "trainer.after_sums")
    frozen = [psutil.Process(zombie.pid), *zombie.below()]
    for process in frozen:
        process.suspend()
    school.start("training-head", label="training-head-2")
    await_hit(school, "judging.after_claim")
    # The zombie, the next owner, the judge; and the sweeper, unless the owner was rung for before it came.
    assert reload(school.system, run).fence in (3, 4)
    school.wait_for(lambda: reload(school.system, run).ended_at, 60)
    ended = reload(school.system, run)
    assert (ended.state in JUDGED, ended.attempt) == (True, 3), ended.reason
    for process in [*frozen, *judge.below()]:
        process.resume()
    school.wait_for(lambda: "no longer ours" in zombie.said(), 60)
    school.wait_for(lambda: "no longer ours" in judge.said(), 60)
    after = reload(school.system, run)
    assert (after.state, after.fence, after.ended_at) == (ended.state, ended.fence, ended.ended_at)
    assert count_rows(school, "SELECT count(*) FROM versions WHERE run_id IS NOT NULL") == 1
    assert count_rows(school, "SELECT count(*) FROM versions WHERE path LIKE '%-1'") == 0
    assert count_rows(school, "SELECT max(round) FROM gate_checks") == 1
    store = school.system.versions.root
    school.wait_for(lambda: not list(store.glob("*/.candidates/*-1")), 10)
    assert school.check() == {}


# --- alive, and getting nowhere --------------------------------------------------------------------
def pass_progress_deadline(rig: Rig, run: Run) -> None:
    """As if the trainer had told nothing for an hour, while its worker goes on beating."""
    with rig.system.db.transaction() as session:
        session.get_one(Run, run.id).progress_at = func.now() - func.make_interval(0, 0, 0, 0, 1)


@pytest.mark.slow
@pytest.mark.fault(row=24, tries=2, only="a head run")
def test_a_trainer_that_gets_nowhere_is_ended_and_its_run_taken_up(school: Rig) -> None:
    """One sleeps, one is stopped; the worker of each beats all the while."""
    worker = school.start(
        "training-head", failpoints="trainer.before_fit=sleep:120@once;trainer.after_fit=stop@once"
    )
    run = request_run(school.system)
    for attempt, name in enumerate(("trainer.before_fit", "trainer.after_fit"), 1):
        await_hit(school, name)
        stuck = worker.below(TRAINER)
        assert reload(school.system, run).attempt == attempt
        pass_progress_deadline(school, run)
        school.wait_for(lambda stuck=stuck: are_gone(stuck), 30)
    school.wait_for(lambda: reload(school.system, run).ended_at, 120)
    ended = reload(school.system, run)
    assert (ended.state in JUDGED, ended.attempt) == (True, 3), ended.reason
    assert get_model(school.system).live_version is not None
    assert school.check() == {}
