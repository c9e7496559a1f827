"""Failpoints: one list, known to the code; nothing when off; what was ordered when armed."""

import ast
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backtalk import failpoints
from backtalk.failpoints import FAILPOINTS, FailpointRaised, failpoint

ROOT = Path(__file__).parents[2]
HIT = "import sys; from backtalk import failpoints as f; f.arm_from_environment(); f.failpoint(sys.argv[1])"
NAME = "store.before_rename"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def find_names() -> list[str]:
    """Names in the calls of all code, in no order."""
    names = []
    for package in ("backtalk", "services", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id == "failpoint" and isinstance(node.args[0], ast.Constant):
                    names.append(node.args[0].value)
                if node.func.id == "around_commit":
                    words = [n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant)]
                    steps = [w for w in words if f"{w}.before_commit" in FAILPOINTS]
                    assert steps, ast.unparse(node)
                    names += [f"{step}.{when}_commit" for step in steps for when in ("before", "after")]
    return names


def hit_in_child(name: str, orders: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    env = os.environ | {"BACKTALK_FAILPOINTS": orders, "PYTHONPATH": str(ROOT)}
    if log is not None:
        env["BACKTALK_FAILPOINT_LOG"] = str(log)
    return subprocess.Popen([sys.executable, "-c", HIT, name], env=env, stderr=subprocess.PIPE)


def test_every_listed_failpoint_lies_somewhere_in_the_code_and_every_one_there_is_listed() -> None:
    assert set(find_names()) == set(FAILPOINTS)


def test_off_nothing_happens() -> None:
    failpoint(NAME)
    failpoint("whatever")


def test_an_armed_failpoint_raises_at_every_hit_and_others_do_not() -> None:
    failpoints.arm(f"{NAME}=raise")
    for _ in range(2):
        with pytest.raises(FailpointRaised, match=NAME):
            failpoint(NAME)
    failpoint("store.after_rename")


def test_a_numbered_one_acts_at_that_hit_only() -> None:
    failpoints.arm(f"{NAME}=raise@2")
    failpoint(NAME)
    with pytest.raises(FailpointRaised):
        failpoint(NAME)
    failpoint(NAME)


def test_one_with_a_plus_acts_from_that_hit_on() -> None:
    failpoints.arm(f"{NAME}=raise@2+")
    failpoint(NAME)
    for _ in range(2):
        with pytest.raises(FailpointRaised):
            failpoint(NAME)


def test_a_full_disk_is_an_error_of_the_disk() -> None:
    failpoints.arm(f"{NAME}=disk-full")
    with pytest.raises(OSError, match="No space left") as raised:
        failpoint(NAME)
    assert raised.value.errno == errno.ENOSPC


def test_sleep_waits() -> None:
    failpoints.arm(f"{NAME}=sleep:0.05")
    began = time.monotonic()
    failpoint(NAME)
    assert time.monotonic() - began >= 0.05


def test_kill_ends_the_process_and_the_hit_is_logged_before(tmp_path: Path) -> None:
    log = tmp_path / "hits"
    child = hit_in_child(NAME, f"{NAME}=kill", log)
    assert child.wait(30) == -signal.SIGKILL
    assert log.read_text() == f"{NAME} {child.pid}\n"


def test_once_acts_in_the_first_process_only(tmp_path: Path) -> None:
    log = tmp_path / "hits"
    ends = [hit_in_child(NAME, f"{NAME}=kill@once", log).wait(30) for _ in range(3)]
    assert ends == [-signal.SIGKILL, 0, 0]


def test_stop_stands_still_until_it_is_told_to_go_on(tmp_path: Path) -> None:
    child = hit_in_child(NAME, f"{NAME}=stop")
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(child.pid, signal.SIGCONT)
    assert child.wait(30) == 0


@pytest.mark.parametrize(
    ("orders", "says"),
    [
        ("store.before_renam=kill", "there is no failpoint 'store.before_renam'"),
        (f"{NAME}=explode", "'explode' is none of kill"),
        (f"{NAME}=sleep:long", "'sleep:long' is none of"),
        (f"{NAME}=kill:9", "'kill:9' is none of"),
        (f"{NAME}=kill@0", "'0' is no number of a hit"),
        (f"{NAME}=kill@first", "'first' is no number of a hit"),
    ],
)
def test_bad_orders_stop_the_process_at_its_start(
    orders: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backtalk.config import Settings

    monkeypatch.setenv("BACKTALK_FAILPOINTS", orders)
    with pytest.raises(ValueError, match="BACKTALK_FAILPOINTS") as raised:
        Settings.load()
    assert says in str(raised.value)


def test_once_without_a_log_is_refused() -> None:
    with pytest.raises(ValueError, match="BACKTALK_FAILPOINT_LOG"):
        failpoints.arm(f"{NAME}=kill@once")
