"""Whom the API lets in, and whose turn it is. What it cannot do soon it refuses before it reads the body.

A request is *in flight* from its head to its answer: being read, waiting for its turn, or worked on. Only so
many are (`max_in_flight`), with only so many bytes in their bodies; a refusal costs next to nothing. Of these
only `api_threads` are worked on at a time: each may decode an image and hold a database connection. A body is
read before its request gets a turn, so that a slow sender holds up nobody but himself.
"""

from threading import BoundedSemaphore, Lock

from flask import Flask, current_app, g, request

from backtalk.config import Settings
from backtalk.errors import DiskNearlyFull, Overloaded
from services.api import auth, intake
from services.api.disk import Disks

#: How long a request that was read waits for its turn (seconds).
TURN_WAIT_S = 5.0
#: Asked for by whoever watches the service, above all while it has too much to do.
ALWAYS_OPEN = frozenset({"/livez", "/readyz", "/metrics"})

_EXTENSION = "backtalk-admission"


class Admission:
    """The doorman of one process. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.disks = Disks({settings.images_path, settings.store_path}, settings.min_free_bytes)
        self._max_requests = settings.max_in_flight
        self._max_bytes = settings.max_bytes_in_flight
        self._turns = BoundedSemaphore(settings.api_threads)
        self._requests = 0
        self._bytes = 0
        self._lock = Lock()

    @property
    def requests(self) -> int:
        """How many are in flight."""
        return self._requests

    def enter(self, size: int) -> None:
        """Raises Overloaded where there is no room for one more request with a body of `size` bytes."""
        with self._lock:
            # One body alone may be larger than the budget: it is within the limit for bodies.
            crowded = size > 0 and self._bytes > 0 and self._bytes + size > self._max_bytes
            if crowded or self._requests >= self._max_requests:
                raise Overloaded("Too much to do just now; nothing was read. Try again shortly.")
            self._requests += 1
            self._bytes += size

    def leave(self, size: int) -> None:
        with self._lock:
            self._requests -= 1
            self._bytes -= size

    def take_turn(self) -> None:
        """Raises Overloaded where none comes in time."""
        if not self._turns.acquire(timeout=TURN_WAIT_S):
            raise Overloaded("Too much to do just now; nothing was done. Try again shortly.")

    def give_turn(self) -> None:
        self._turns.release()


def register(app: Flask, settings: Settings) -> None:
    """To come before everything that costs; `register_turns` comes last."""
    app.extensions[_EXTENSION] = Admission(settings)
    app.before_request(_enter)
    app.teardown_request(_leave)


def register_turns(app: Flask) -> None:
    app.before_request(_take_turn)


def get_admission(app: Flask) -> Admission:
    admission: Admission = app.extensions[_EXTENSION]
    return admission


def _enter() -> None:
    if request.path in ALWAYS_OPEN:
        return
    admission = get_admission(current_app)
    if intake.takes_pictures(auth.find_view()) and admission.disks.find_full() is not None:
        raise DiskNearlyFull("The disk is nearly full, so no more pictures are taken in. Try again later.")
    size = min(request.content_length or 0, intake.find_body_limit())
    if "Transfer-Encoding" in request.headers:
        size = intake.find_body_limit()  # whatever it will be
    admission.enter(size)
    g.in_flight_bytes = size


def _take_turn() -> None:
    if "in_flight_bytes" in g:
        get_admission(current_app).take_turn()
        g.has_turn = True


def _leave(_: BaseException | None) -> None:
    admission = get_admission(current_app)
    if g.pop("has_turn", False):
        admission.give_turn()
    size = g.pop("in_flight_bytes", None)
    if size is not None:
        admission.leave(size)
