"""Gunicorn's threaded worker, and where ours differs: it drains to the last connection, no client can hold it
up, and its own errors are problem details as well.
"""

import contextlib
import ctypes
import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker

from services.deadlines import DEADLINES

#: From the first byte of a request to the end of its head (seconds).
HEAD_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 5.0
DRAIN_MAX_BYTES = 64 * 2**20

_HEAD = "backtalk_head"


class Worker(ThreadWorker):
    """One per process."""

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._take_the_last()

    def _take_the_last(self) -> None:
        """Who is connected already gets an answer; who comes later is refused at once, and may go elsewhere.

        Left alone, the socket would go on taking connections while the worker drains, and reset them all at
        the end.
        """
        for listener in self.sockets:
            with contextlib.suppress(OSError, ValueError), _holding_the_interpreter():
                descriptor = listener.sock.fileno()
                while _is_anybody_there(descriptor):
                    self.accept(listener)
                _SYSTEM.close(descriptor)
                listener.sock.detach()

    def murder_pending(self) -> None:
        super().murder_pending()
        DEADLINES.enforce()  # the main loop comes here once a second

    def handle(self, conn: TConn) -> Any:
        with contextlib.ExitStack() as head:
            head.enter_context(DEADLINES.limit(lambda: conn.sock, HEAD_TIMEOUT_S))
            setattr(conn, _HEAD, head)
            result = super().handle(conn)
        if result is False:
            conn.close(graceful=True)
        return result

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Take in what the app did not read, also of a large body: a client that sends all of it before it
        looks for an answer would find a reset connection instead of the reason for its refusal.
        """
        until = time.monotonic() + DRAIN_TIMEOUT_S
        return bool(conn.parser.finish_body(until, DRAIN_MAX_BYTES)) and keepalive

    def handle_request(self, req: Any, conn: TConn) -> bool:
        getattr(conn, _HEAD).close()
        return bool(super().handle_request(req, conn))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """Closing waits for the client to close: `handle` did that, where it holds up nobody else."""
        if not fs.cancelled() and fs.exception() is None and fs.result() is False:
            self.nr_conns -= 1
        else:
            super().finish_request(conn, fs)


#: Calls through it keep the interpreter's lock, which Python's own let go. Whoever connects between the last
#: look at the backlog and the close gets a reset, and while other threads run, that can be milliseconds.
_SYSTEM = ctypes.PyDLL(None)


class _Poll(ctypes.Structure):
    """`struct pollfd` of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def _is_anybody_there(descriptor: int) -> bool:
    asked = _Poll(descriptor, select.POLLIN, 0)
    return bool(_SYSTEM.poll(ctypes.byref(asked), ctypes.c_ulong(1), 0) > 0)


@contextlib.contextmanager
def _holding_the_interpreter() -> Iterator[None]:
    """No other thread gets its turn between two steps, as long as none of them waits for anything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1.0)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """What gunicorn itself refuses, before any app sees it, as problem details instead of HTML."""
    problem = {
        "type": f"urn:backtalk:problem:{reason.lower().replace(' ', '-')}",
        "title": reason.capitalize(),
        "status": status_int,
        "detail": mesg or reason,
        "instance": "",
        "request_id": "",
    }
    body = json.dumps(problem)
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, (head + body).encode("ascii", "replace"))


# Gunicorn has no setting for this page; its worker asks this module for the function by name.
util.write_error = write_problem
