"""What goes wrong during a soak: each fault lasts a moment, and is over when its function returns."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from tests.faults.rig import Part, Rig

PARTS = ("api", "relay", "beat", "events", "training-head")


class Weather:
    """Draws faults by a seed and does them; all in the thread that started the processes."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig = rig
        self._draw = random.Random(f"weather-{seed}")
        self.kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "kill below": self._kill_below,
            "SIGTERM": self._terminate,
            "freeze": self._freeze,
            "Redis restarts": rig.servers.redis.restart,
            "Redis is flushed": rig.servers.redis.flush,
            "Redis freezes": lambda: self._hold(rig.servers.redis),
            "Postgres restarts": rig.servers.postgres.restart,
            "Postgres freezes": lambda: self._hold(rig.servers.postgres),
            "connections cut": lambda: rig.proxy(self._server()).cut(),
            "half-open": lambda: self._misbehave(rig.proxy(self._server()).go_half_open),
            "refused": lambda: self._misbehave(rig.proxy(self._server()).refuse),
            "slow network": self._slow,
        }

    def strike(self) -> str:
        """One fault, from its beginning to its end; its kind."""
        kind = self._draw.choice(list(self.kinds))
        self.kinds[kind]()
        return kind

    def pause_s(self) -> float:
        """Until the next one."""
        return self._draw.uniform(0.5, 5.0)

    def _server(self) -> str:
        return self._draw.choice(["postgres", "redis"])

    def _part(self) -> Part:
        return self._rig[self._draw.choice(PARTS)]

    def _kill(self) -> None:
        self._part().kill()

    def _kill_below(self) -> None:
        """A gunicorn worker, a Celery child, a trainer."""
        found = [child for name in PARTS for child in self._rig[name].below()]
        if found:
            _signal(self._draw.choice(found), signal.SIGKILL)

    def _terminate(self) -> None:
        self._part().terminate()

    def _freeze(self) -> None:
        part = self._part()
        with suspended([part.pid, *(child.pid for child in part.below())]):
            time.sleep(self._draw.uniform(0.5, 6.0))

    def _hold(self, server: object) -> None:
        server.stop()  # type: ignore[attr-defined]
        time.sleep(self._draw.uniform(0.5, 4.0))
        server.go_on()  # type: ignore[attr-defined]

    def _misbehave(self, begin: Callable[[], None]) -> None:
        begin()
        time.sleep(self._draw.uniform(0.5, 4.0))
        self.clear()

    def _slow(self) -> None:
        self._rig.proxy(self._server()).latency_s = self._draw.uniform(0.01, 0.1)
        time.sleep(self._draw.uniform(1.0, 4.0))
        self.clear()

    def clear(self) -> None:
        for server in ("postgres", "redis"):
            self._rig.proxy(server).heal()


@contextmanager
def suspended(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _signal(process: psutil.Process | int, number: signal.Signals) -> None:
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        found.send_signal(number)
    except psutil.NoSuchProcess:
        return
