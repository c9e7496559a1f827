"""One process at a time works on a home, and others find what runs there."""

import subprocess
import sys
from pathlib import Path

import pytest

from backtalk.home import HomeTaken, StackInfo, find_stack, hold, is_held, remove_stack, write_stack

INFO = StackInfo(
    pid=7,
    address="http://127.0.0.1:8000",
    database_url="postgresql+psycopg://postgres@/backtalk",
    redis_url="redis://:secret@127.0.0.1:1/0",
    store="/store",
    images="/images",
)
HOLD = """
import sys, pathlib
from backtalk.home import hold
with hold(pathlib.Path(sys.argv[1]), "models create cats"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_home_is_held_once(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(HomeTaken, match=rf"process {holder.pid} \(models create cats\)"):
            hold(tmp_path, "up").__enter__()
        holder.kill()
    with hold(tmp_path, "up"):  # the kernel let go of it
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_running_stack_is_found_and_named(tmp_path: Path) -> None:
    assert find_stack(tmp_path) is None
    with hold(tmp_path, "up"):
        write_stack(tmp_path, INFO)
        assert find_stack(tmp_path) == INFO
        with pytest.raises(HomeTaken, match=r"already running .*http://127\.0\.0\.1:8000"):
            hold(tmp_path, "up").__enter__()
        remove_stack(tmp_path)
        assert find_stack(tmp_path) is None


def test_what_a_killed_stack_left_behind_is_not_believed(tmp_path: Path) -> None:
    write_stack(tmp_path, INFO)
    assert find_stack(tmp_path) is None


def test_only_the_owner_can_read_where_the_servers_are(tmp_path: Path) -> None:
    write_stack(tmp_path, INFO)
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0


def test_a_stack_s_settings_reach_its_parts(tmp_path: Path) -> None:
    settings = INFO.settings(tmp_path)
    assert settings.database_url == INFO.database_url
    assert str(settings.store_path) == "/store"
