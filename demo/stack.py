"""A whole Backtalk in a child process, driven by the command line as anybody would."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from backtalk.children import start_child, stop_child
from backtalk.home import find_stack

_COMMAND = (sys.executable, "-m", "backtalk.cli")


class StackFailed(RuntimeError):
    """The stack did not start, or a command failed; the message holds what it said last."""


class Stack:
    """`backtalk up` on a home of its own. Settings of the caller's environment do not reach it."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home.absolute()
        self.log = self.home / "up.log"
        self.address = ""
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("BACKTALK_")}
        self._env |= {"BACKTALK_HOME": str(self.home)} | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *, timeout_s: float = 90.0) -> None:
        """Start it on a free port and wait until it is ready.

        Raises:
            StackFailed: it ended, or was not ready in time.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as sink:
            command = [*_COMMAND, "up", "--port", "0", "--home", str(self.home)]
            self._process = start_child(command, env=self._env, output=sink)
        deadline = time.monotonic() + timeout_s
        try:
            while not self._ready():
                if self._process.poll() is not None:
                    raise StackFailed(f"The stack ended with status {self._process.returncode}.")
                if time.monotonic() > deadline:
                    raise StackFailed(f"The stack was not ready after {timeout_s:.0f} s.")
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout_s: float = 40.0) -> bool:
        """Stop it as Ctrl-C would; true if it went by itself."""
        if self._process is None:
            return True
        process, self._process = self._process, None
        return stop_child(process, timeout_s=timeout_s)

    def run(self, *words: str | Path, stdin: str | None = None) -> str:
        """One `backtalk` command on this home; returns what it printed.

        Raises:
            StackFailed: it ended with an error.
        """
        command = [*_COMMAND, *map(str, words)]
        done = subprocess.run(
            command, env=self._env, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackFailed(f"backtalk {' '.join(map(str, words))}:\n{done.stdout}{done.stderr}".rstrip())
        return done.stdout

    def create_key(self, name: str, *scopes: str) -> str:
        """Make a key through the command line; returns it."""
        said = self.run("keys", "create", "--name", name, "--scopes", ",".join(scopes))
        found = re.search(r"\bbt_\w+", said)
        if found is None:
            raise StackFailed(f"backtalk keys create printed no key:\n{said}")
        return found[0]

    def tail(self, lines: int = 25) -> str:
        """The last lines of the stack's own log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _ready(self) -> bool:
        info = find_stack(self.home)
        if info is None:
            return False
        self.address = info.address
        try:
            return httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
