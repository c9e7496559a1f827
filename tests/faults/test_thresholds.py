"""Two hundred corrections at once cross the threshold: one run, of the right samples."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from backtalk.states import ACTIVE_RUN_STATES, Origin, Split
from backtalk.tables import Decision, Model, Run, Sample, Snapshot, TriggerCheck
from tests.faults.history import Operation, until_acknowledged
from tests.faults.load import all_prepared
from tests.faults.rig import Rig
from tests.served import make_jpeg

CORRECTIONS = 200
SENDERS = 16


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(row=25, tries=CORRECTIONS)
def test_a_threshold_that_two_hundred_corrections_cross_at_once_makes_one_run_of_the_right_samples(
    rig: Rig,
) -> None:
    rig.use("digits", lease_s="10")
    with rig.system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        model.policy = model.policy | {"min_approved": 120}  # so that the others come while it is trained
    rig.start_all("api", "relay", "beat", "events", "training-head")
    app = rig.caller("predict", "feedback", timeout_s=30)
    with ThreadPoolExecutor(SENDERS) as pool:
        made = list(pool.map(lambda seed: correct(app, seed), range(CORRECTIONS)))
    assert {done.status for done in made} == {201}
    rig.wait_for(lambda: all_prepared(rig, CORRECTIONS), 120)
    rig.wait_for(lambda: find_ended(rig), 120)
    rig.settle()
    with rig.system.db.reading() as session:
        [run] = session.scalars(select(Run)).all()
        snapshot = session.scalars(select(Snapshot).where(Snapshot.digest == run.snapshot_digest)).one()
        samples = session.scalars(select(Sample)).all()
        decisions = session.scalars(select(Decision.id)).all()
        fired = [check for check in session.scalars(select(TriggerCheck)) if check.fired]
    assert run.trigger_key.startswith("approved:")
    assert len(fired) == 1
    assert run.decision_cut >= sorted(decisions)[119]
    taught = [s for s in samples if s.split in (Split.TRAIN, Split.VALIDATION)]
    told = [s for s in taught if s.origin == Origin.BASE or (s.decision_id or 0) <= run.decision_cut]
    assert snapshot.sample_ids == sorted(s.id for s in told)
    assert {s.image_id for s in told if s.origin == Origin.CORRECTION}
    assert rig.check() == {}


def correct(app: object, seed: int) -> Operation:
    """A picture that nobody saw before; the reporter says that it is the other digit."""
    answer = until_acknowledged(lambda: app.predict("digits", make_jpeg(seed)))  # type: ignore[attr-defined]
    other = {"zero": "one", "one": "zero"}[answer.answer["predictions"][0]["label"]]
    return until_acknowledged(
        lambda: app.correct(str(answer.id), other, key=str(seed))  # type: ignore[attr-defined]
    )


def find_ended(rig: Rig) -> bool:
    with rig.system.db.reading() as session:
        return session.scalars(select(Run).where(Run.state.not_in(ACTIVE_RUN_STATES))).first() is not None
