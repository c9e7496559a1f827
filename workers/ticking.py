"""Beat's scheduler: what it sends, when, and how much of it may wait."""

import logging
from time import monotonic
from typing import Any

from celery.beat import Scheduler

LOG = logging.getLogger(__name__)
#: So many messages may wait in a tick's queue: some rounds of all. More are worthless: each says the same.
WAIT_AT_MOST = 20


class Ticking(Scheduler):  # type: ignore[misc]  # Celery is untyped
    """Each tick at once, then whenever its time has passed on the monotonic clock.

    Celery's own goes by the wall clock: set back by a day, it sends nothing for a day. And a date on each
    tick, its way to keep those that nobody takes from piling up, is past for a worker whose clock goes ahead,
    which then runs none. Here no clock is compared with another. Nothing is kept in a file, which a kill
    could leave corrupt: when a night was last considered is in Postgres.
    """

    def __init__(self, *args: Any, **values: Any) -> None:
        self._due_at: dict[str, float] = {}
        self._unheard: set[str] = set()  # queues whose ticks nobody takes
        super().__init__(*args, **values)

    def tick(self, *_args: Any, **_values: Any) -> float:
        """Send what is due; seconds until the next is."""
        for name, entry in self.schedule.items():
            now = monotonic()
            if now >= self._due_at.get(name, now):
                self._due_at[name] = now + entry.schedule.seconds
                self.apply_entry(entry, producer=self.producer)
        return max(0.0, min(self._due_at.values()) - monotonic())

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **values: Any) -> Any:
        """Send one tick, unless enough wait in its queue. What fails is logged by the caller."""
        queue = entry.options["queue"]
        waiting = producer.channel.queue_declare(queue=queue).message_count
        if waiting < WAIT_AT_MOST:
            self._unheard.discard(queue)
            return super().apply_async(entry, producer=producer, advance=advance, **values)
        if queue not in self._unheard:  # said once
            LOG.warning("no worker takes %s: with %d waiting, no more are sent", queue, waiting)
            self._unheard.add(queue)
        return None
