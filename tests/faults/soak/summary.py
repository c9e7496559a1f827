"""What a soak sees: while it goes on as a line, afterwards as JSON and as a table."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import func, select

from backtalk.tables import Run
from tests.faults.history import History
from tests.faults.rig import Rig

Found = dict[str, list[str]]


@dataclass
class Log:
    """Filled while it goes on."""

    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    checks: list[Found] = field(default_factory=list)  # one for each quiet point: all invariants
    revived: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # of members of the crowd: a call never answered

    @property
    def is_sound(self) -> bool:
        return bool(self.checks) and not self.failures and not any(map(any, map(dict.values, self.checks)))


class Line:
    """The progress line. Where there is no terminal, what is said at quiet points alone is seen."""

    def __init__(self, console: Console, rig: Rig, log: Log) -> None:
        self._rig, self._log = rig, log
        columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=console, transient=True)
        self._task = self.progress.add_task("", total=log.seconds)

    def tell(self, what: str, elapsed_s: float) -> None:
        self.progress.update(self._task, completed=elapsed_s, description=self._describe(what))

    def say(self, what: str) -> None:
        self.progress.console.print(self._describe(what), highlight=False)

    def _describe(self, what: str) -> str:
        return f"{len(self._rig.history)} calls, {self._log.faults.total()} faults: {what}"


def summarise(log: Log, rig: Rig) -> dict[str, Any]:
    broken = {n: said for found in log.checks for n, said in found.items() if said}
    return {
        "seed": log.seed,
        "seconds": round(log.seconds, 1),
        "operations": _count_operations(rig.history),
        "slowest_s": _find_slowest(rig.history),
        "faults": dict(log.faults.most_common()),
        "revived": dict(log.revived.most_common()),
        "runs": _count_rows(rig, "Run", "state"),
        "failed_runs": _find_reasons(rig),
        "changes": _count_rows(rig, "LedgerEntry", "action"),
        "quiet_points": len(log.checks),
        "held": sorted({n for found in log.checks for n in found} - set(broken), key=lambda n: int(n[1:])),
        "broken": broken,
        "failures": log.failures,
    }


def _count_operations(history: History) -> dict[str, dict[str, int]]:
    """By kind and status; `none` where no answer came."""
    counted: dict[str, Counter[str]] = {}
    for operation in history:
        counted.setdefault(operation.kind, Counter())[str(operation.status or "none")] += 1
    return {kind: dict(sorted(statuses.items())) for kind, statuses in sorted(counted.items())}


def _find_slowest(history: History) -> dict[str, float]:
    slowest: dict[str, float] = {}
    for operation in history:
        slowest[operation.kind] = max(slowest.get(operation.kind, 0.0), round(operation.seconds, 2))
    return dict(sorted(slowest.items()))


def _count_rows(rig: Rig, table: str, column: str) -> dict[str, int]:
    from backtalk import tables

    value = getattr(getattr(tables, table), column)
    with rig.system.db.reading() as session:
        return {str(found): n for found, n in session.execute(select(value, func.count()).group_by(value))}


def _find_reasons(rig: Rig) -> list[str]:
    """Why runs failed: a fault may do that, and then it is said."""
    with rig.system.db.reading() as session:
        return [str(reason) for reason in session.scalars(select(Run.reason).where(Run.state == "failed"))]


def show(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title=f"soak, seed {summary['seed']}, {summary['seconds']:.0f} s", title_justify="left")
    table.add_column("what")
    table.add_column("how often")
    for kind, statuses in summary["operations"].items():
        slowest = summary["slowest_s"][kind]
        table.add_row(kind, ", ".join(f"{s}: {n}" for s, n in statuses.items()) + f"; slowest {slowest} s")
    for title in ("faults", "revived", "runs", "changes"):
        table.add_row(title, ", ".join(f"{what}: {n}" for what, n in summary[title].items()), style="bold")
    points = summary["quiet_points"]
    table.add_row("held", f"{' '.join(summary['held'])} at rest, {points} times", style="green")
    for reason in summary["failed_runs"]:
        table.add_row("failed run", reason)
    for name, said in summary["broken"].items():
        table.add_row(name, "\n".join(said[:5]), style="red")
    for said in summary["failures"][:5]:
        table.add_row("failed", said, style="red")
    console.print(table)
