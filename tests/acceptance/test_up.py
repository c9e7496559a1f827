"""`backtalk up`, as a person at a terminal meets it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from backtalk.home import find_stack
from tests.certificates import issue, trust

COMMAND = [sys.executable, "-m", "backtalk.cli"]
PROCESSES = {"postgres", "redis", "api", "events", "training-head", "beat", "relay"}


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bt-up-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "home"


class Up:
    """One `backtalk up`, with the processes that were ever seen below it."""

    def __init__(self, home: Path, *words: str) -> None:
        self.home = home
        self.log = home.parent / "up.log"
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--home", str(home), *(words or ("--port", "0"))],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=os.environ | {"BACKTALK_WARM_TRAINER": "false"},
            )

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: "ready at" in self.said())

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def started() -> Iterator[Callable[..., Up]]:
    ups: list[Up] = []

    def start(home: Path, *words: str) -> Up:
        ups.append(Up(home, *words))
        return ups[-1]

    yield start
    for up in ups:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(60)


def backtalk(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words, "--home", str(home)], capture_output=True, text=True, check=False, timeout=120
    )


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert [p.cmdline() for p in alive] == []


def test_up_serves_until_it_is_stopped_and_leaves_no_process(home: Path, started: Callable[..., Up]) -> None:
    up = started(home)
    up.wait_until_ready()
    stack = find_stack(home)
    assert stack is not None
    with urllib.request.urlopen(f"{stack.address}/readyz") as answer:
        assert answer.status == 200
    below = up.descendants()
    assert {line.split()[0] for line in up.said().splitlines()} <= PROCESSES | {"up"}

    second = backtalk(home, "up", "--port", "0")
    assert second.returncode == 1
    assert f"A stack is already running on {home} (process {up.process.pid}" in second.stderr

    key = backtalk(home, "keys", "create", "--name", "app", "--scopes", "predict")
    assert key.stdout.startswith("bt_"), key.stderr

    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0, up.said()
    assert_gone(below)
    assert find_stack(home) is None
    assert "Traceback" not in up.said()

    # what was made is still there, also without a stack
    assert backtalk(home, "keys", "revoke", key.stdout.strip()).returncode == 0


def test_a_killed_up_takes_everything_with_it(home: Path, started: Callable[..., Up]) -> None:
    up = started(home)
    up.wait_until_ready()
    below = up.descendants()
    up.process.kill()
    up.process.wait()
    assert_gone(below)
    assert backtalk(home, "models", "list").returncode == 0


@pytest.mark.slow
def test_a_part_that_dies_is_started_again(home: Path, started: Callable[..., Up]) -> None:
    up = started(home)
    up.wait_until_ready()
    for part in ("workers.relay", "redis-server"):
        [victim] = [p for p in up.descendants() if part in " ".join(p.cmdline())]
        victim.kill()
    up.wait_until(lambda: up.said().count("starting again\n") == 2)
    stack = find_stack(home)
    assert stack is not None
    up.wait_until(lambda: any("redis-server" in " ".join(p.cmdline()) for p in up.descendants()))
    with urllib.request.urlopen(f"{stack.address}/readyz") as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_a_taken_port_ends_up_with_the_part_that_wanted_it(home: Path, started: Callable[..., Up]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = started(home, "--port", str(taken.getsockname()[1]))
        assert up.process.wait(120) == 1
    assert "Error: api: ended with" in up.said()
    assert "in use" in up.said().partition("Error: api")[2]


@pytest.mark.slow
def test_up_speaks_https_alone_with_a_certificate_and_says_where(
    home: Path, started: Callable[..., Up]
) -> None:
    authority = trustme.CA()
    pair = issue(home.parent, authority)
    words = ("--port", "0", "--tls-cert", str(pair.certificate), "--tls-key")
    refused = backtalk(home, "up", *words, str(pair.certificate))
    assert refused.returncode == 1
    assert "no certificate and key in PEM" in refused.stderr

    up = started(home, *words, str(pair.key))
    up.wait_until_ready()
    stack = find_stack(home)
    assert stack is not None
    assert stack.address.startswith("https://127.0.0.1:")
    with urllib.request.urlopen(f"{stack.address}/readyz", context=trust(authority)) as answer:
        assert answer.status == 200
        assert answer.headers["Strict-Transport-Security"]
