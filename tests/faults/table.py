"""The pytest plugin of the fault matrix: the marker, the table at the end, and the table as JSON.

    @pytest.mark.fault(row=9, tries=1)
    def test_a_message_that_dies_with_its_worker_is_rung_for_again(rig: Rig) -> None: ...

`row` is the row of the matrix (`ROWS` below); `tries` how often the test does its fault (a test
that counts says so itself: `rig.tried(12)`). `only="…"` says what a test covers of a row that asks
for more; a row of such tests alone counts as `part`, not as held. Tests anywhere may carry the
marker. With `--fault-table FILE`, as `make faults` has it, the table goes to that file too, and
rows that no test covers are named. A run over the whole matrix fails where a failpoint of
`backtalk/failpoints.py` was never hit: an attack that never takes place proves nothing.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backtalk.failpoints import FAILPOINTS

ROWS = {
    1: "kill -9 of the trainer and its worker in each state",
    2: "kill -9 of a Celery parent; of its child only",
    3: "zombie: SIGSTOP past the lease, a new owner wins, SIGCONT",
    4: "FLUSHALL with queued work",
    5: "Redis down under load",
    6: "Redis restarts twenty times, workers kept",
    7: "half-open Redis",
    8: "Redis at maxmemory",
    9: "kill -9 between taking a message and noting it",
    10: "the same message fifty times, in parallel",
    11: "Postgres restarts at once, mid-request and mid-promotion",
    12: "COMMIT acknowledged by the server, the reply lost",
    13: "pool exhausted, lock held",
    14: "disk full in upload, export and audit",
    15: "the Nth write, fsync or rename of a publication fails, for all N",
    16: "a byte flipped or cut in each file of a version",
    17: "half-written versions, stray folders, links",
    18: "two beats; beat down over midnight; nights of clock changes",
    19: "clock a day off on one worker",
    20: "two candidates promoted at once",
    21: "API killed mid-request at each durable step; the client repeats",
    22: "SIGTERM to everything under load",
    23: "poison: bad message, unknown task, run that kills its trainer, image that does not decode",
    24: "trainer alive without progress; NaN",
    25: "threshold crossed by 200 corrections in parallel",
    26: "bad images beside good traffic",
    27: "model swap under load; new model does not load",
    28: "poison campaign; rollback during training",
    29: "migration beside old code; killed half-way",
    30: "two reviewers decide the same item",
}


@dataclass
class Row:
    """One test's line of the table."""

    test: str
    row: int
    outcome: str = "not run"
    tries: int = 1
    only: str = ""  # what it covers, where that is not all of the row
    seconds: float = 0.0
    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    why: str = ""  # of a skip or failure


REPORTS = pytest.StashKey["Reports"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write the fault matrix as JSON, name missing rows")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(row, tries=1, only=…): covers a row of the fault matrix")
    config.addinivalue_line(
        "markers", "faults: lies in tests/faults; `make faults` runs these and all `fault`s"
    )
    config.stash[REPORTS] = Reports()
    config.pluginmanager.register(config.stash[REPORTS])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("faults")
        for marker in item.iter_markers("fault"):
            # A property, since it travels with the reports: the test may run in another process.
            item.user_properties.append(("fault", marker.kwargs))


class Reports:
    """Takes the rows and the failpoints that were hit out of the tests' reports."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.hits: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        self.hits.update(properties.get("hits", []))
        if "fault" not in properties:
            return
        row = self.rows.setdefault(report.nodeid, Row(test=report.nodeid, **properties["fault"]))
        row.seconds += report.duration
        row.tries = properties.get("tries", row.tries)
        row.held, row.broken = properties.get("held", []), properties.get("broken", [])
        if report.when == "call" or not report.passed:
            row.outcome = report.outcome
            if report.skipped and isinstance(report.longrepr, tuple):
                row.why = report.longrepr[2].removeprefix("Skipped: ")
            elif report.failed:
                row.why = str(report.longrepr).strip().splitlines()[-1][:200]


def find_unhit(config: pytest.Config) -> list[str]:
    """Failpoints that no process of any rig came to; of a run over the whole matrix alone, else none."""
    return sorted(set(FAILPOINTS) - config.stash[REPORTS].hits) if _is_whole(config) else []


def _is_whole(config: pytest.Config) -> bool:
    """`make faults` without ARGS that leave something out."""
    everything = all(Path(word).resolve() == config.rootpath / "tests" for word in config.args)
    return config.getoption("--fault-table") is not None and everything and not config.option.keyword


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_worker = hasattr(session.config, "workerinput")  # of pytest-xdist: it has seen a part alone
    if not is_worker and session.exitstatus == pytest.ExitCode.OK and find_unhit(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = [row for row in config.stash[REPORTS].rows.values() if row.outcome != "not run"]
    target: Path | None = config.getoption("--fault-table")
    if not rows or (target is None and len(rows) == 1):
        return
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    write(f"{'row':>3}  {'tried':>5}  {'seconds':>7}  {'result':<7}  {'invariants':<28}  fault")
    by_row: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_row[row.row].append(row)
    for number in sorted(by_row):
        write(_line(number, by_row[number]))
    if target is not None:
        missing = sorted(set(ROWS) - {n for n, found in by_row.items() if _result(found) == "held"})
        write(f"{len(ROWS) - len(missing)} of {len(ROWS)} rows held" + _list_missing(missing))
        unhit = find_unhit(config)
        if _is_whole(config):
            write(
                f"{len(FAILPOINTS) - len(unhit)} of {len(FAILPOINTS)} failpoints hit" + _list_missing(unhit)
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _line(number: int, rows: list[Row]) -> str:
    held = sorted({name for row in rows for name in row.held}, key=lambda name: int(name[1:]))
    shown = "I1–I10" if len(held) == 10 else " ".join(held) or "its own"
    tries, seconds = sum(row.tries for row in rows), sum(row.seconds for row in rows)
    line = f"{number:>3}  {tries:>5}  {seconds:>7.1f}  {_result(rows):<7}  {shown:<28}  {ROWS[number]}"
    whys = {row.why for row in rows if row.why} | {f"only: {row.only}" for row in rows if row.only}
    return line + "".join(f"\n{'':>8}{why}" for why in sorted(whys))


def _result(rows: list[Row]) -> str:
    outcomes = {row.outcome for row in rows}
    if "failed" in outcomes:
        return "BROKEN"
    if outcomes != {"passed"}:
        return "skipped"
    return "part" if all(row.only for row in rows) else "held"


def _list_missing(missing: Sequence[object]) -> str:
    return f"; not: {', '.join(map(str, missing))}" if missing else ""
