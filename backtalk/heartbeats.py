"""How the owner of a run says that it lives, and hears that it must let go."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backtalk import runs
from backtalk.errors import LeaseLost, WorkerStopping
from backtalk.runs import Claim
from backtalk.states import RunState
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


@contextmanager
def beating(system: System, claim: Claim, state: RunState) -> Iterator[None]:
    """Beat from a thread of its own while the block works, which tells no progress.

    Without, who judges or promotes for longer than the lease is doubled, and whoever is rung for next loses
    it in turn, until the attempts are used up. A block that hangs is ended by its task's time limit.

    Args:
        state: beats count only while the run is in it. What the block commits may hand the run on, and a beat
            after that would hold it against the next owner.
    """
    done = Event()
    lease_s = system.settings.lease_s

    def keep_beating() -> None:
        while not done.wait(lease_s / 3):
            try:
                with system.db.transaction() as session:
                    runs.beat(session, claim, {}, lease_s=lease_s, while_in=(state,))
            except LeaseLost:  # the block hears of it at its own next write
                return
            except AWAY:
                log.warning("run %s: the database does not answer", claim.run_id)

    thread = Thread(target=keep_beating, name=f"beats of {claim.run_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
