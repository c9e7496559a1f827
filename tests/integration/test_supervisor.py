"""The supervisor with real child processes."""

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from backtalk.children import start_child
from backtalk.supervisor import ChildDied, Service, Supervisor

SLEEP = "import time; time.sleep(600)"
TALK = "import time; print('hello', flush=True); time.sleep(600)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit()))
print("ready", flush=True)
time.sleep(600)
"""
PARENT = f"""
import sys, time
from backtalk.children import start_child
print("child", start_child([sys.executable, "-c", {SLEEP!r}]).pid, flush=True)
time.sleep(600)
"""
FAMILY = f"""
import subprocess, sys, time
print("child", subprocess.Popen([sys.executable, "-c", {SLEEP!r}]).pid, flush=True)
time.sleep(600)
"""


def service(name: str, code: str) -> Service:
    def start(output: int) -> subprocess.Popen[bytes]:
        return start_child([sys.executable, "-c", code], output=output)

    return Service(name, start)


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def supervisor(screen: io.StringIO) -> Iterator[Supervisor]:
    supervisor = Supervisor(io.StringIO(), screen)
    yield supervisor
    supervisor.kill()


def listen_until(supervisor: Supervisor, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        supervisor.listen(0.1)
        supervisor.restart_dead()


def test_every_line_carries_the_name_of_who_said_it(supervisor: Supervisor, screen: io.StringIO) -> None:
    supervisor.start(service("one", TALK))
    supervisor.start(service("two", TALK))
    listen_until(supervisor, lambda: screen.getvalue().count("hello") == 2)
    assert sorted(line.split() for line in screen.getvalue().splitlines()) == [
        ["one", "hello"],
        ["two", "hello"],
    ]


def test_a_service_that_dies_is_started_again(supervisor: Supervisor, screen: io.StringIO) -> None:
    supervisor.start(service("one", TALK))
    listen_until(supervisor, lambda: "hello" in screen.getvalue())
    first = supervisor.processes()["one"]
    psutil.Process(first).kill()
    listen_until(supervisor, lambda: screen.getvalue().count("hello") == 2)
    assert "ended with -9; starting again in 1 s" in screen.getvalue()
    assert supervisor.processes()["one"] != first


def test_a_service_that_dies_at_start_is_named_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(service("api", "print('no such table'); raise SystemExit(3)"))
    with pytest.raises(ChildDied, match=r"(?s)api: ended with 3.*no such table"):
        listen_until_dead(supervisor)


def listen_until_dead(supervisor: Supervisor) -> None:
    for _ in range(600):
        supervisor.listen(0.1)
        supervisor.check_alive()


def test_a_service_that_ignores_sigterm_is_killed(supervisor: Supervisor, screen: io.StringIO) -> None:
    supervisor.start(service("stubborn", STUBBORN))
    listen_until(supervisor, lambda: "ready" in screen.getvalue())
    supervisor.stop(0.5, first=0)
    assert supervisor.processes() == {}


def test_children_of_a_service_go_with_it(supervisor: Supervisor, screen: io.StringIO) -> None:
    supervisor.start(service("parent", FAMILY))
    listen_until(supervisor, lambda: "child" in screen.getvalue())
    child = int(screen.getvalue().split()[-1])
    supervisor.stop(5.0, first=0)
    gone, _ = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=30)
    assert gone or not psutil.pid_exists(child)


def test_servers_are_stopped_after_those_who_use_them(supervisor: Supervisor, screen: io.StringIO) -> None:
    for name in ("server", "user"):
        supervisor.start(service(name, POLITE))
    listen_until(supervisor, lambda: screen.getvalue().count("ready") == 2)
    supervisor.stop(10.0, first=1)
    goodbyes = [line.split()[0] for line in screen.getvalue().splitlines() if "bye" in line]
    assert goodbyes == ["user", "server"]


def test_a_closed_terminal_does_not_keep_it_from_stopping(
    supervisor: Supervisor, screen: io.StringIO
) -> None:
    supervisor.start(service("one", TALK))
    screen.close()
    supervisor.listen(5.0)
    supervisor.stop(5.0, first=0)
    assert supervisor.processes() == {}


def test_a_child_is_told_to_end_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline().split()[1]))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child.wait(30)
