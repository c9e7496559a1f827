"""Remembers that a server fell silent, so that not every caller waits to find out for itself. Pure."""

import time
from threading import Lock

#: After a silence nobody asks for so long (seconds).
REST_S = 1.0
#: Then one caller tries, and for so long the others are told at once (seconds); more than one try takes.
TRY_S = 4.0


class Outage:
    """One per server and process. Thread-safe."""

    def __init__(self) -> None:
        self._until: float | None = None  # monotonic; None while the server answers
        self._turn = Lock()

    def is_known(self) -> bool:
        """Whether to fail at once. False also for the one caller whose turn it is to try."""
        if self._until is None:  # the common case takes no lock
            return False
        with self._turn:
            until, now = self._until or 0.0, time.monotonic()
            if now >= until:
                self._until = now + TRY_S
            return now < until

    def note_silence(self) -> None:
        """The server did not answer in time."""
        with self._turn:
            self._until = time.monotonic() + REST_S

    def note_answer(self) -> None:
        """The server answered, whatever it said."""
        self._until = None
