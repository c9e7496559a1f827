"""How the owner of a run says that it lives, and hears that it must let go."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backtalk import runs
from backtalk.errors import WorkerStopping
from backtalk.runs import Claim
from backtalk.system import System

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
#: Postgres was restarted, or is slow. What was committed meanwhile, nobody knows: the row is read again.
AWAY = (OperationalError, PoolTimeout)

Stopping = Callable[[], bool]  # whether this worker was asked to stop, and must let go of its run now


def never() -> bool:
    """For an owner that nobody asks to stop."""
    return False


class Heart:
    """Progress reports to heartbeats: at most one a second, unless the part changes."""

    def __init__(self, system: System, claim: Claim, is_stopping: Stopping) -> None:
        self._system = system
        self._claim = claim
        self._is_stopping = is_stopping
        self._part: Any = None
        self._beat_at = 0.0
        self._heard_at = monotonic()  # when the database last took a beat, which began our lease

    def __call__(self, progress: dict[str, Any]) -> None:
        """Raises LeaseLost, WorkerStopping: either ends the trainer."""
        if self._is_stopping():
            raise WorkerStopping("The worker was asked to stop; the run goes to another.")
        part = progress.get("part", self._part)
        if part == self._part and monotonic() - self._beat_at < BEAT_EVERY_S:
            return
        self._part, self._beat_at = part, monotonic()
        lease_s = self._system.settings.lease_s
        try:
            with self._system.db.transaction() as session:
                runs.beat(session, self._claim, progress, lease_s=lease_s)
        except AWAY:
            if monotonic() - self._heard_at > lease_s:
                raise
            log.warning(
                "run %s: the database does not answer; the lease may outlast that", self._claim.run_id
            )
        else:
            self._heard_at = self._beat_at
