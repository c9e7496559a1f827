"""Ends the reading from clients that dawdle: no thread waits for one longer than it was given."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from threading import Lock


class Deadlines:
    """Sockets with the time by which reading from them ends. Thread-safe.

    A timeout of the socket would not do: it begins anew with every byte that trickles in.
    """

    def __init__(self) -> None:
        self._given: dict[object, tuple[float, Callable[[], socket.socket]]] = {}
        self._turn = Lock()

    @contextlib.contextmanager
    def limit(
        self, find_socket: Callable[[], socket.socket], timeout_s: float
    ) -> Iterator[Callable[[], bool]]:
        """Within the block reading ends after `timeout_s`; gives a question: has it been ended?"""
        mark = object()
        with self._turn:
            self._given[mark] = (time.monotonic() + timeout_s, find_socket)
        try:
            yield lambda: mark not in self._given
        finally:
            with self._turn:
                self._given.pop(mark, None)

    def enforce(self) -> int:
        """End what is over its time, so that whoever reads there finds the end of the stream; how many."""
        now = time.monotonic()
        with self._turn:
            over = [mark for mark, (until, _) in self._given.items() if until <= now]
            sockets = [self._given.pop(mark)[1] for mark in over]
        for find_socket in sockets:
            # The plain socket's own method: that of a TLS socket would also forget its session, which the
            # answer still needs. Writing stays open for that answer.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(find_socket(), socket.SHUT_RD)
        return len(sockets)


#: Of this process; its gunicorn worker enforces them.
DEADLINES = Deadlines()
