"""Child processes that die with their parent, each in a process group of its own."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start_child(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    user: int | None = None,
    group: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command`; the kernel sends it `death_signal` when the thread that calls this ends.

    Its group is its own, so that Ctrl-C in a terminal reaches the parent alone, which then stops its
    children in order.
    """
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        env=env,
        cwd=cwd,
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
        start_new_session=True,
        preexec_fn=_die_with_parent(death_signal),  # noqa: PLW1509  # it makes system calls, and no more
    )


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; for processes that somebody else forked."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def ask_kernel() -> None:  # runs after the change of user, which would clear the request
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request was made
            os._exit(1)

    return ask_kernel


def stop_child(
    process: subprocess.Popen[bytes], *, stop_signal: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0
) -> bool:
    """Ask the child to stop, then kill what is left of its group; true if it went by itself."""
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(timeout_s)
        went = True
    except subprocess.TimeoutExpired:
        went = False
    with suppress(ProcessLookupError, PermissionError):  # nobody may be left in the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return went
