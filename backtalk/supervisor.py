"""Keeps child processes: one log of what they say, started again when they die, ended in order.

One thread does all of it, since a child is told to die with the *thread* that started it.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from backtalk.children import stop_child
from backtalk.errors import Unavailable

Start = Callable[[int], subprocess.Popen[bytes]]  # takes the file descriptor for stdout and stderr

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93)
_LAST_LINES = 20
_RESTART_MAX_S = 30.0
_CALM_S = 60.0  # a child that lived so long starts again at once
_NAME_WIDTH = 13


@dataclass
class Service:
    """One child: how it starts, and how it is asked to stop."""

    name: str
    start: Start
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = 0
    partial: bytes = b""


class ChildDied(Unavailable):
    """A child ended while the stack was starting."""


class Supervisor:
    """Starts services in order and stops them in reverse."""

    def __init__(self, log: TextIO, screen: TextIO = sys.stdout) -> None:
        self._services: list[Service] = []
        self._selector = selectors.DefaultSelector()
        self._log = log
        self._screen = screen
        self._coloured = screen.isatty() and "NO_COLOR" not in os.environ

    def start(self, service: Service) -> None:
        """Start a service; what it says goes to the log from now on.

        Raises:
            Unavailable: it did not start; the message holds what it said last.
        """
        self._services.append(service)
        try:
            self._launch(service)
        except Unavailable as error:
            self.listen(0.0)
            raise ChildDied(_describe_death(service, error.message)) from None

    def say(self, name: str, line: str) -> None:
        """One line of the log."""
        known = [service.name for service in self._services]
        colour = _COLOURS[known.index(name) % len(_COLOURS)] if name in known else 1
        label = f"{name:<{_NAME_WIDTH}}"
        shown = f"\x1b[{colour}m{label}\x1b[0m {line}" if self._coloured else f"{label} {line}"
        with suppress(OSError, ValueError):  # the terminal may be gone; stopping must still work
            self._screen.write(shown + "\n")
            self._screen.flush()
        self._log.write(f"{time.strftime('%H:%M:%S')} {label} {line}\n")
        self._log.flush()

    def listen(self, timeout_s: float) -> None:
        """Copy what children say for at most `timeout_s`; returns early after the first of it."""
        for key, _ in self._selector.select(timeout_s):
            self._copy(key.data, key.fd)

    def check_alive(self) -> None:
        """Raises:
        ChildDied: a service has ended; the message holds what it said last.
        """
        for service in self._services:
            if service.process is not None and service.process.poll() is not None:
                self.listen(0.1)
                raise ChildDied(_describe_death(service, f"ended with {service.process.returncode}"))

    def restart_dead(self) -> None:
        """Start again what has died, after a pause that grows from 1 to 30 s with each failure."""
        for service in self._services:
            if service.restart_at is not None:
                if time.monotonic() >= service.restart_at:
                    self._relaunch(service)
            elif service.process is not None and service.process.poll() is not None:
                status = service.process.returncode
                stop_child(service.process)  # what it left running must not meet its successor
                service.process = None
                self._plan_restart(service, f"ended with {status}")

    def stop(self, timeout_s: float, first: int) -> None:
        """Stop the services from position `first` on all at once, then those before it in reverse order.

        Nothing outlives this: after `timeout_s` what is left is killed.
        """
        later = self._services[first:]
        for service in later:
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(service.stop_signal)
        deadline = time.monotonic() + timeout_s
        while any(_is_running(service) for service in later) and time.monotonic() < deadline:
            self.listen(0.1)
        for service in [*later, *reversed(self._services[:first])]:
            if service.process is not None:
                left_s = max(deadline - time.monotonic(), 0.0) if service in later else timeout_s
                stop_child(service.process, stop_signal=service.stop_signal, timeout_s=left_s)
        self.listen(0.0)

    def kill(self) -> None:
        """End everything now."""
        for service in reversed(self._services):
            if service.process is not None:
                stop_child(service.process, stop_signal=signal.SIGKILL, timeout_s=1.0)

    def processes(self) -> dict[str, int]:
        """Process ids by name, of what runs."""
        return {s.name: s.process.pid for s in self._services if s.process is not None and _is_running(s)}

    def _launch(self, service: Service) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._selector.register(read_end, selectors.EVENT_READ, service)
        service.started_at, service.restart_at = time.monotonic(), None
        try:
            service.process = service.start(write_end)
        finally:
            os.close(write_end)

    def _relaunch(self, service: Service) -> None:
        self.say(service.name, "starting again")
        try:
            self._launch(service)
        except Unavailable as error:
            self._plan_restart(service, error.message.splitlines()[0])

    def _plan_restart(self, service: Service, why: str) -> None:
        lived_s = time.monotonic() - service.started_at
        service.failures = 0 if lived_s > _CALM_S else service.failures + 1
        pause_s = min(2.0 ** max(service.failures - 1, 0), _RESTART_MAX_S)
        service.restart_at = time.monotonic() + pause_s
        self.say(service.name, f"{why}; starting again in {pause_s:.0f} s")

    def _copy(self, service: Service, descriptor: int) -> None:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        if not data:  # every process that held the other end is gone
            self._selector.unregister(descriptor)
            os.close(descriptor)
        *lines, service.partial = (service.partial + data).split(b"\n") if data else (service.partial, b"")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                service.last_lines.append(text)
                self.say(service.name, text)


def _is_running(service: Service) -> bool:
    return service.process is not None and service.process.poll() is None


def _describe_death(service: Service, why: str) -> str:
    said = "\n".join(f"  {line}" for line in service.last_lines)
    return f"{service.name}: {why.strip()}\n{said}".rstrip()
