"""The trainer: a process that fits, exports and verifies heads, and does nothing but what its parent asks.

It reads one JSON command a line on its standard input and answers each with lines of
`{"progress": {"part", "fraction"}}`, then one `{"result": …}` or `{"error": {"condition", "message"}}`.
It ends when its input ends, when its parent dies, and on SIGTERM (exit status 75: try again later): at once,
or in a full run after the step at hand, with a checkpoint.
Started by `backtalk.trainers`.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from backtalk import failpoints
from backtalk.errors import BacktalkError, InvalidInput

_PR_SET_PDEATHSIG = 1  # prctl(2)


class _Parent:
    """The other end of the pipes: where commands come from and answers go."""

    def __init__(self, answers: TextIO, pid: int) -> None:
        self._answers = answers
        self._pid = pid
        self._commands: SimpleQueue[str] = SimpleQueue()
        self._working = False
        self._tuning = False
        self._stopping = threading.Event()

    def watch(self) -> None:
        """Start the threads that end this process. SIGTERM must be blocked in every thread before."""
        threading.Thread(target=self._await_signal, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def _await_signal(self) -> None:
        # The kernel's own notice (PR_SET_PDEATHSIG) comes when the *thread* that started us ends, on Linux
        # alone; so this asks as well.
        while os.getppid() == self._pid:
            if signal.sigtimedwait([signal.SIGTERM], 1.0) is not None:
                self._stop()
        os._exit(os.EX_TEMPFAIL)

    def _stop(self) -> None:
        """At once, but for a full run: that ends with its step, and leaves a checkpoint."""
        if not self._tuning or self._stopping.is_set():
            os._exit(os.EX_TEMPFAIL)
        self._stopping.set()

    def _read(self) -> None:
        for line in sys.stdin:
            self._working = True
            self._commands.put(line)
        if self._tuning and os.getppid() == self._pid:  # it lets go, and SIGTERM is on its way
            return
        os._exit(os.EX_TEMPFAIL if self._working else 0)

    def commands(self) -> Iterator[dict[str, Any]]:
        """Commands, for ever: the process ends where its input does."""
        while True:
            yield json.loads(self._commands.get())
            self._working = not self._commands.empty()

    def send(self, **answer: Any) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def tell(self, part: str, fraction: float, **more: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # a parent that lets go hears nothing, and SIGTERM follows
            self.send(progress={"part": part, "fraction": round(min(fraction, 1.0), 4)} | more)

    def tune(self, lesson: Path) -> dict[str, Any]:
        """A full run, which SIGTERM ends at the next step rather than at once."""
        from backtalk.learn.finetune import tune

        self._tuning = True
        try:
            return tune(lesson, self.tell, self._stopping.is_set)
        finally:
            self._tuning = False


def main() -> None:
    """Do what the parent asks until it goes away."""
    arguments = _parse(sys.argv[1:])
    failpoints.arm_from_environment()
    _settle(arguments.parent)
    parent = _Parent(_keep_stdout(), arguments.parent)
    parent.watch()
    if arguments.backbone is not None:
        _answer(
            parent,
            {"do": "warm", "store": arguments.store, "backbone_digest": arguments.backbone},
            quiet=True,
        )
    for command in parent.commands():
        _answer(parent, command)
        _release_memory()


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of whoever started this")
    parser.add_argument("--store", help="models store of the backbone to load")
    parser.add_argument("--backbone", help="digest of the backbone to load before the first command")
    return parser.parse_args(words)


def _settle(parent: int) -> None:
    """Be polite, be mortal."""
    os.nice(19)  # beside it, those who answer people go first
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask to be told
        os._exit(os.EX_TEMPFAIL)


def _keep_stdout() -> TextIO:
    """The real standard output, for answers; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _release_memory() -> None:
    """Give back what the C library keeps for later: 350 MB after a verification, in a process that waits."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _answer(parent: _Parent, command: dict[str, Any], *, quiet: bool = False) -> None:
    """Do one command. `quiet`: nobody asked for this one, so nobody is told."""
    try:
        result = _do(command, parent)
    except BacktalkError as error:
        answer: dict[str, Any] = {"error": {"condition": type(error).__name__, "message": error.message}}
    except Exception as error:  # noqa: BLE001  # the parent must hear of every end
        traceback.print_exc()
        answer = {"error": {"condition": "TrainerFailed", "message": f"{type(error).__name__}: {error}"}}
    else:
        answer = {"result": result}
    if not quiet:
        parent.send(**answer)


def _do(command: dict[str, Any], parent: _Parent) -> dict[str, Any]:
    from backtalk.learn import tasks  # imports TensorFlow: only now that the process can be ended

    tell = parent.tell
    match command:
        case {"do": "warm", "store": str(store), "backbone_digest": str(digest)}:
            return tasks.warm(Path(store), digest)
        case {"do": "prepare_backbone", "name": str(name), "store": str(store)}:
            return tasks.prepare(name, Path(store), command.get("input_size"), command.get("weights"), tell)
        case {"do": "tune", "lesson": str(lesson)}:
            return parent.tune(Path(lesson))
        case {"do": "fit", "job": str(job)}:
            return tasks.fit(Path(job), tell)
        case {"do": "write_whole_model", "head": str(), "store": str(), "form": str(), "target": str()}:
            from backtalk.learn.wholemodel import write_whole_model

            return write_whole_model(command)
        case {"do": "verify", "artefact": str(), "artefact_digest": str(), "golden": str(), "store": str()}:
            return tasks.verify(command, tell)
    raise InvalidInput(f"The trainer knows no such command: {command}")


if __name__ == "__main__":
    main()
