"""States, times and gate checks as the pages say them."""

from datetime import UTC, datetime, timedelta

import pytest

from backtalk.errors import BacktalkError
from backtalk.policy import Policy
from backtalk.states import RunState, VersionState
from backtalk.tables import GateCheck
from services.review import outlook, words
from services.review.gate_table import make_line


def test_every_state_has_words():
    assert {words.run_state(state).text for state in RunState}
    assert {words.version_state(state).text for state in VersionState}


def test_every_status_that_a_condition_can_have_is_known_to_the_pages():
    from services.review.site import STATUSES

    covered = tuple(kind for kind, _ in STATUSES)
    unmapped = [kind for kind in BacktalkError.__subclasses__() if not issubclass(kind, covered)]
    assert {kind.__name__ for kind in unmapped} <= {
        "LeaseLost",
        "TrainerFailed",
        "SnapshotUnusable",
        "Superseded",
        "WeightsRefused",
        "WorkerStopping",
    }


def test_the_next_night_is_told_in_the_models_own_time():
    policy = Policy(nightly="02:00", timezone="Europe/Berlin")
    before = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)  # 01:30 in Berlin
    assert outlook.say_night(policy, before) == "02:00 Europe/Berlin, in 30 min"
    assert outlook.say_night(policy, before + timedelta(hours=1)) == "02:00 Europe/Berlin, in 24 h"


@pytest.mark.parametrize(
    ("passed", "detail", "text"),
    [
        (True, {"outcome": "passed", "limit": -0.02}, "passed"),
        (False, {"outcome": "failed", "limit": -0.02}, "failed"),
        (None, {"outcome": "undecided", "limit": -0.02}, "cannot tell"),
        (None, {"outcome": "too-few", "limit": -0.02}, "too few"),
        (None, {"outcome": "shown", "limit": None}, "shown only"),
        (None, {}, "shown only"),
        (True, {}, "passed"),
    ],
)
def test_each_outcome_of_a_check_reads_as_words(passed, detail, text):
    check = GateCheck(
        check="accuracy-champion",
        value=0.01,
        bound=-0.01,
        n=9,
        fixed=1,
        broken=0,
        passed=passed,
        detail=detail,
    )
    assert make_line(check).result.text == text


def test_the_bar_shows_the_bound_beyond_the_limit_where_a_check_fails():
    detail = {"outcome": "failed", "limit": 0.2}
    check = GateCheck(
        check="regression", value=0.4, bound=0.3, n=60, fixed=0, broken=24, passed=False, detail=detail
    )
    line = make_line(check)
    assert (line.value, line.bound, line.limit) == ("40.0 %", "30.0 %", "≤ 20.0 %")
    assert line.bar is not None
    assert line.bar.limit_at < line.bar.bound_at < line.bar.value_at
    assert line.bar.allowed_from + line.bar.allowed_width == pytest.approx(line.bar.limit_at)


def test_a_check_that_nobody_knows_yet_is_shown_all_the_same():
    check = GateCheck(
        check="latency-p50", value=1.5, bound=None, n=0, fixed=0, broken=0, passed=None, detail={}
    )
    assert make_line(check).title == "Latency p50"
