"""A short soak, so that the long one works when somebody wants it."""

import json

import pytest
from rich.console import Console

from tests.faults.rig import Rig
from tests.faults.soak.__main__ import SETTINGS, soak
from tests.faults.soak.summary import Log, summarise

SECONDS = 20.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_seconds_of_load_and_faults_break_no_invariant(rig: Rig) -> None:
    log = soak(rig.use("digits", **SETTINGS), SECONDS, 7, Console(quiet=True))
    summary = json.loads(json.dumps(summarise(log, rig)))
    assert (summary["broken"], summary["failures"]) == ({}, [])
    assert log.is_sound
    assert summary["held"] == [f"I{number}" for number in range(1, 11)]
    assert sum(summary["faults"].values()) >= 3
    assert summary["operations"]["predict"]["200"] >= 10


def test_a_soak_that_broke_something_or_looked_at_nothing_is_not_sound() -> None:
    sound = {"I1": [], "I5": []}
    assert Log(1, 1.0, checks=[sound]).is_sound
    assert not Log(1, 1.0).is_sound
    assert not Log(
        1, 1.0, checks=[sound, {"I1": ["correction x was acknowledged and is gone"], "I5": []}]
    ).is_sound
    assert not Log(1, 1.0, checks=[sound], failures=["not answered in 90 s"]).is_sound
