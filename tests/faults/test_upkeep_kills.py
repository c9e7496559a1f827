"""Upkeep killed at each step: what it was removing is gone at the next one, and nothing else is."""

import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy import select

from backtalk import upkeep
from backtalk.states import RunState
from backtalk.tables import Version
from tests.faults.lessons import add_candidate, get_model
from tests.faults.rig import ROOT, Rig

STEPS = ("upkeep.before_rows", "upkeep.before_prune", "store.before_remove", "store.after_aside",
         "upkeep.after_prune", "upkeep.before_leftovers", "upkeep.before_prune_backbone")  # fmt: skip

SWEEP = """
from backtalk import bootstrap, upkeep
from backtalk.config import Settings
upkeep.sweep(bootstrap.build(Settings.load()))
"""


@pytest.mark.slow
@pytest.mark.fault(row=1, tries=len(STEPS), only="upkeep")
def test_upkeep_killed_at_each_step_removes_in_the_end_what_was_to_go_and_no_more(rig: Rig) -> None:
    system = rig.use("served").system
    for number in range(3, 3 + upkeep.UNPROMOTED_KEPT + 2):
        add_candidate(system, number, state=RunState.PASSED)
    torn = system.versions.root / ".jobs" / "left"
    torn.mkdir(parents=True)
    os.utime(torn, (0, 0))
    unused = system.versions.root / "_backbones" / ("ab" * 32)  # as a rejected full run leaves one
    unused.mkdir()
    os.utime(unused, (0, 0))
    for step in STEPS:
        env = rig.environment(f"{step}=kill")
        ended = subprocess.run([sys.executable, "-c", SWEEP], env=env, cwd=ROOT, check=False).returncode
        assert ended == -signal.SIGKILL, step
        assert get_model(system).live_version == 1
    upkeep.sweep(system)
    with system.db.reading() as session:
        pruned = session.scalars(select(Version.number).where(Version.pruned_at.is_not(None))).all()
    assert sorted(pruned) == [2, 3, 4]  # the oldest of those that nobody promoted
    assert not torn.exists()
    assert not unused.exists()
    assert rig.check() == {}
