"""The course of the demo: the app sends, the reviewer decides, runs come, versions are measured."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from demo.app import App, Told
from demo.cells import Cell
from demo.client import Client, Json
from demo.measurer import Measurer
from demo.reviewer import Reviewer
from demo.story import EndedRun, Milestone

CHUNK = 25
NOTICED_S = 2.0  # by then the service has considered a decision
ACTIVE = {"queued", "training", "judging", "promoting"}
VERDICTS = {"promoted", "passed", "rejected", "inconclusive"}


class Loop:
    """Takes turns, so that the figures of each version are about that version alone."""

    def __init__(
        self,
        client: Client,
        model: str,
        app: App,
        reviewer: Reviewer,
        measurer: Measurer,
        *,
        min_approved: int,
        show: Callable[[Milestone | EndedRun], None],
    ) -> None:
        self._client = client
        self._model = model
        self._app = app
        self._reviewer = reviewer
        self._measurer = measurer
        self._min_approved = min_approved
        self._show = show
        self.milestones: list[Milestone] = []
        self.runs: list[EndedRun] = []
        self.told: list[Told] = []

    def play(self, cells: Sequence[Cell], advance: Callable[[int], None]) -> None:
        """Send all cells; between two chunks let the reviewer and any run come to their end."""
        self.measure()
        for start in range(0, len(cells), CHUNK):
            chunk = cells[start : start + CHUNK]
            told = self._app.send(chunk)
            self.told += told
            self._reviewer.work_off(one.correction_id for one in told if one.correction_id)
            self.wait_for_runs()
            advance(len(chunk))

    def measure(self) -> None:
        """Ask the live version about the untouched cells, unless that was done."""
        live = self._client.model(self._model)["version"]
        if self.milestones and live == self.milestones[-1].version:
            return
        measured = self._measurer.measure(live)
        self._reviewer.work_off()  # rejects the audits that the measurer caused
        before = self.milestones[-1].measured if self.milestones else measured
        fixed, broken = measured.changes_since(before)
        feedback = len(self._reviewer.labels)
        stone = Milestone(measured.version, feedback, measured, fixed, broken)
        self.milestones.append(stone)
        self._show(stone)

    def wait_for_runs(self, *, patience_s: float = 120.0) -> None:
        """Return when no run is active and none is due.

        Raises:
            TimeoutError: a run is due and does not come, or does not end.
        """
        deadline = time.monotonic() + patience_s
        known = len(self.runs)
        while True:
            rows = list(self._client.runs(self._model))[::-1]
            for row in rows[known:]:
                if row["state"] in ACTIVE:
                    break
                known += 1
                self._end(row)
                deadline = time.monotonic() + patience_s
            if known == len(rows) and not self._due(rows):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"A run should have come or ended by now. {self._why()}")
            time.sleep(0.25)

    def _end(self, row: Json) -> None:
        run = EndedRun(len(self.runs) + 1, len(self._reviewer.labels), self._client.run(row["id"]))
        self.runs.append(run)
        self._show(run)
        if run.promoted:
            self.measure()

    def _due(self, rows: list[Json]) -> bool:
        """Whether enough was decided since the last verdict's snapshot for the service to start a run."""
        cuts = [
            datetime.fromisoformat(row["started_at"]).timestamp() for row in rows if row["state"] in VERDICTS
        ]
        since = sum(at > max(cuts, default=0.0) for at in self._reviewer.labels)
        if since < self._min_approved:
            return False
        newest = next(self._client.triggers(self._model), None)
        if newest is not None and newest["counts"]["new"] >= newest["counts"]["needed"]:
            return True
        return time.time() - self._reviewer.labels[-1] < NOTICED_S

    def _why(self) -> str:
        newest = next(self._client.triggers(self._model), None)
        return newest["counts"]["sentence"] if newest else "No trigger was ever considered."
