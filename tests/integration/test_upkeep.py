"""What the hourly upkeep takes away, and what it must not."""

import os

from backtalk import upkeep
from backtalk.states import RunState
from backtalk.system import System
from backtalk.tables import Run
from tests import factories as make


def test_what_a_run_at_work_has_written_stays_until_the_run_ends(system: System) -> None:
    with system.db.transaction() as session:
        run_id = make.make_run(session, make.make_model(session, live=False), state=RunState.TRAINING).id
    root = system.versions.root
    folders = [root / ".jobs" / f"{run_id}-1", root / "animals" / ".candidates" / f"{run_id}-1",
               root / ".training" / str(run_id)]  # fmt: skip
    for folder in folders:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))  # as one looks where a run takes longer than the upkeep waits
    upkeep.sweep(system)
    assert all(folder.exists() for folder in folders)
    with system.db.transaction() as session:
        session.get_one(Run, run_id).state = RunState.FAILED
    upkeep.sweep(system)
    assert not any(folder.exists() for folder in folders)
