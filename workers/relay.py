"""Outbox → Celery: reads the events that nobody has rung for, rings, marks. `python -m workers.relay`.

The only process that talks to Postgres and Redis both for one event. It survives either being away: what
was not rung for stays in the outbox. A crash between ringing and marking rings twice, which tasks bear.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backtalk import bootstrap, outbox, triggers
from backtalk.config import Settings
from backtalk.db import Database
from backtalk.failpoints import failpoint
from backtalk.reactions import ARGUMENTS, REACTIONS
from backtalk.states import RunKind
from backtalk.tables import OutboxEvent
from workers import log
from workers.app import EVENTS_QUEUE, make_app, training_queue

LOG = logging.getLogger("workers.relay")  # also where it is `__main__`
POLL_S = 0.1
DUE_EVERY_S = 0.5
BACKOFF_MAX_S = 5.0
BATCH = 100

#: Bound the time that one event may take to publish. Redis away must not mean a hang.
BOUNDED: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 2,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.2,
}

Publish = Callable[[str, list[object], str], None]  # task, arguments, queue
_TASKS = {event.__name__: task for event, task in REACTIONS.items()}


class Relay:
    """Rings for committed events, the oldest first."""

    def __init__(self, db: Database, publish: Publish) -> None:
        self._db = db
        self._publish = publish

    def ring(self) -> int:
        """Ring for one batch; returns how many were rung for.

        Raises:
            SQLAlchemyError, BrokerError, RedisError, OSError: either server is away. What was rung for
                before that is marked, the rest stays.
        """
        with self._db.transaction() as session:
            rung, failure = self._ring_batch(session)
            if rung:
                outbox.mark_published(session, rung)
                failpoint("outbox.before_mark")
        if rung:
            failpoint("outbox.after_mark")
        if failure is not None:
            raise failure
        return len(rung)

    def _ring_batch(self, session: Session) -> tuple[list[OutboxEvent], Exception | None]:
        rung: list[OutboxEvent] = []
        for event in outbox.take_unpublished(session, BATCH):
            try:
                failpoint("outbox.before_publish")
                self._ring_for(event)
                failpoint("outbox.after_publish")
            except (BrokerError, RedisError, OSError) as error:
                return rung, error
            rung.append(event)
        return rung, None

    def _ring_for(self, event: OutboxEvent) -> None:
        task = _TASKS.get(event.event)
        if task is None:  # written by another release: nothing here reacts to it
            LOG.error("event %s of outbox row %d is unknown", event.event, event.id)
            return
        argument = event.payload[ARGUMENTS[task]]
        self._publish(task, [argument], find_queue(task, event.payload))

    def ring_due(self) -> int:
        """Emit ConsiderationDue for models whose `consider_at` has passed; returns how many."""
        with self._db.transaction() as session:
            return len(triggers.emit_due(session))


def find_queue(task: str, payload: dict[str, object]) -> str:
    """Head and full runs have queues of their own; everything else is an event."""
    if task == "training.train":
        return training_queue(RunKind(str(payload["kind"])))
    if task == "devices.make_file":  # what it needs is installed there; it takes seconds, not hours
        return training_queue(RunKind.HEAD)
    return EVENTS_QUEUE


def make_publisher(settings: Settings) -> Publish:
    """Publishes over one connection, without Celery's endless retries."""
    app = make_app(settings, transport_options=BOUNDED)

    def publish(task: str, arguments: list[object], queue: str) -> None:
        app.send_task(task, args=arguments, queue=queue, retry=False, ignore_result=True)

    return publish


def run(relay: Relay, stopping: threading.Event) -> None:
    """Ring until `stopping` is set, whatever is away in between."""
    wait_s, due_at = POLL_S, 0.0
    while not stopping.wait(wait_s):
        try:
            if time.monotonic() >= due_at:
                relay.ring_due()
                due_at = time.monotonic() + DUE_EVERY_S
            rung = relay.ring()
        except (SQLAlchemyError, BrokerError, RedisError, OSError) as error:
            wait_s = min(max(wait_s, POLL_S) * 2, BACKOFF_MAX_S)
            LOG.warning("waiting %.1f s: %s", wait_s, " ".join(str(error).split())[:200])
        else:
            wait_s = 0.0 if rung == BATCH else POLL_S


def main() -> None:
    """The process."""
    settings = Settings.load()
    log.configure(settings.log_level)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    system = bootstrap.build(settings, pool_size=1)
    run(Relay(system.db, make_publisher(settings)), stopping)
    system.close()


if __name__ == "__main__":
    main()
