"""Gunicorn's threaded worker, with a thread that stays with its client for a moment."""

import select
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER_MS = 5


class LingeringWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A thread that has answered waits a little for the next request on the same connection.

    Gunicorn hands each connection back to its main thread and gets it from there again. Between two
    inferences, which leave nothing else in the cache, that cost more than all of Flask. Nobody waits longer
    for it: a thread lingers only while no request waits for a thread.
    """

    def handle(self, conn: Any) -> Any:
        while True:
            kept = super().handle(conn)
            if kept is not True or not self.alive or not self._asks_again(conn):
                return kept

    def _asks_again(self, conn: Any) -> bool:
        if conn.is_http2 or self.cfg.is_ssl or self.tpool._work_queue.qsize():
            return False
        if conn.parser.unreader.buf.getvalue():  # it has sent the next one along with the last
            return True
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))
