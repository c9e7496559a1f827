"""Takes runs from dead or stuck owners, rings again for what nobody heard, and knows when to give up.

Any worker may do it at any time: the rows are locked, and whatever the old owner still writes carries an old
fence.
"""

from sqlalchemy.orm import Session

from backtalk import runs
from backtalk.config import Settings
from backtalk.events import CandidatePassed, CandidateTrained, Event, RunRequested
from backtalk.failpoints import around_commit
from backtalk.outbox import emit
from backtalk.states import RunState
from backtalk.tables import Run


def sweep_runs(session: Session, settings: Settings) -> int:
    """Take runs from dead or stuck owners, and ring again for those that nobody has heard; how many."""
    around_commit(session, "sweeper")
    dead = runs.list_dead(session, stuck_s=settings.stuck_s)
    for run in dead:
        run.fence += 1  # whatever the old owner still writes no longer counts
        if run.attempt < settings.max_attempts:
            runs.requeue(session, run)
        else:
            runs.quarantine(session, run, f"whoever worked on it stopped while {run.state}")
    unrung = runs.list_unrung(session, after_s=settings.ring_again_s)
    for run in unrung:
        if run.lease_until is not None and run.attempt >= settings.max_attempts:
            run.fence += 1
            runs.quarantine(session, run, f"whoever worked on it stopped while {run.state}")
        else:
            runs.note_ring(run)
            emit(session, _doorbell(run))
    session.flush()
    return len(dead) + len(unrung)


def _doorbell(run: Run) -> Event:
    if run.state == RunState.QUEUED:
        return RunRequested(model_id=run.model_id, run_id=str(run.id), kind=run.kind)
    if run.state == RunState.JUDGING:
        return CandidateTrained(model_id=run.model_id, run_id=str(run.id))
    return CandidatePassed(model_id=run.model_id, run_id=str(run.id))
