"""Trainers as their parent sees them: child processes that load TensorFlow so that nobody else has to."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Self

from backtalk import errors
from backtalk.children import stop_child
from backtalk.errors import BacktalkError, InvalidInput, TrainerFailed

Progress = Callable[[dict[str, Any]], None]

_TICK_S = 1.0
_ENVIRONMENT = {
    # One thread: faster for matrices of this size, and the same bits on any number of cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Heads are small, and a GPU's sums differ from those of the CPU that serves.
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


#: Of a trainer for a full run: the threads are its own business, and a GPU is used where there is one.
_TUNER_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
_PATIENCE_S, _TUNER_PATIENCE_S = 2.0, 20.0  # between SIGTERM and SIGKILL: a step and a checkpoint take time


def _never() -> bool:
    return False


def _hear_nothing(_progress: dict[str, Any]) -> None:
    return


class Trainer:
    """One child process, for one run: what it allocates is freed with it. Not thread-safe."""

    def __init__(self, process: subprocess.Popen[bytes], patience_s: float = _PATIENCE_S) -> None:
        self._process = process
        self._patience_s = patience_s
        self._unread = b""

    @classmethod
    def start(cls, backbone_digest: str | None = None, store: Path | None = None) -> Self:
        """Start a process; with a backbone, it loads that before the first command.

        Call it from a thread that outlives the trainer: the kernel kills the trainer when that thread ends.
        """
        words = []
        if backbone_digest is not None and store is not None:
            words = ["--backbone", backbone_digest, "--store", str(store)]
        return cls(_start_process(words, _ENVIRONMENT))

    @classmethod
    def start_tuner(cls) -> Self:
        """Start a process for a full run. It is given time to write a checkpoint when it is closed."""
        return cls(_start_process([], _TUNER_ENVIRONMENT), _TUNER_PATIENCE_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self, command: dict[str, Any], on_progress: Progress | None = None, stop: Callable[[], bool] = _never
    ) -> dict[str, Any]:
        """Send one command and wait for its result.

        Args:
            on_progress: gets what the trainer tells, and about every second an empty dictionary, so that the
                caller can look after its lease. What it raises ends the trainer.
            stop: asked about every second; true ends the trainer.

        Raises:
            TrainerFailed: it ended, was stopped, or met an error of its own.
            BacktalkError: the condition that it met, such as ArtefactInvalid or SnapshotUnusable.
        """
        try:
            self._send(command)
            answer = self._await(on_progress or _hear_nothing, stop)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise _make_error(**answer["error"])
        return dict(answer["result"])

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # opened with a pipe
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._explain_end() from None

    def _await(self, on_progress: Progress, stop: Callable[[], bool]) -> dict[str, Any]:
        """Pass progress on until the result or the error comes."""
        assert self._process.stdout is not None  # opened with a pipe
        next_tick = monotonic() + _TICK_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                ready = bool(selector.select(max(0.0, next_tick - monotonic())))
                for answer in self._read(self._process.stdout.fileno()) if ready else ():
                    if "progress" not in answer:
                        return answer
                    on_progress(answer["progress"])
                if monotonic() >= next_tick:
                    next_tick = monotonic() + _TICK_S
                    on_progress({})
                    if stop():
                        raise TrainerFailed("The trainer was stopped.", stopped=True)

    def _read(self, descriptor: int) -> list[dict[str, Any]]:
        """Whole answers that have come in."""
        data = os.read(descriptor, 65536)
        if not data:
            raise self._explain_end()
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _explain_end(self) -> TrainerFailed:
        self.close()
        status = self._process.returncode
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return TrainerFailed(f"The trainer ended {how}, before it was done; see its log.", status=status)

    def close(self) -> None:
        """End the process and whatever it started. Fine if it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:  # unsent bytes for a process that is gone
                    continue
        stop_child(self._process, timeout_s=self._patience_s)


def _start_process(words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "backtalk.learn.trainer", "--parent", str(os.getpid()), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
    )


def _make_error(condition: str, message: str) -> BacktalkError:
    kind = getattr(errors, condition, None)
    if isinstance(kind, type) and issubclass(kind, BacktalkError):
        # Those about images carry a code besides, which no trainer tells.
        return InvalidInput(message) if issubclass(kind, errors.RefusedImage) else kind(message)
    return TrainerFailed(f"{condition}: {message}")


class Trainers:
    """Trainers for one run after another, the next of which is already warm. One of these per process."""

    def __init__(self, warm: bool) -> None:
        self._warm = warm
        self._spare: Trainer | None = None
        self._lock = Lock()

    def take(self, backbone_digest: str | None = None, store: Path | None = None) -> Trainer:
        """The spare if it is alive, else a new one. Whoever takes it closes it, or gives it back."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.is_alive():
            return spare
        if spare is not None:
            spare.close()
        return Trainer.start(backbone_digest, store)

    def keep_spare(self, backbone_digest: str | None = None, store: Path | None = None) -> None:
        """Start the next trainer, unless one waits already or this process wants no warm ones."""
        with self._lock:
            if not self._warm or (self._spare is not None and self._spare.is_alive()):
                return
            dead, self._spare = self._spare, Trainer.start(backbone_digest, store)
        if dead is not None:
            dead.close()

    def give_back(self, trainer: Trainer) -> None:
        """Keep a trainer that has only verified as the spare, if there is none; else close it."""
        with self._lock:
            has_spare = self._spare is not None and self._spare.is_alive()
            kept = self._warm and not has_spare and trainer.is_alive()
            unwanted = self._spare if kept else trainer
            if kept:
                self._spare = trainer
        if unwanted is not None:
            unwanted.close()

    @contextmanager
    def taken(
        self, backbone_digest: str | None = None, store: Path | None = None, *, give_back: bool = False
    ) -> Iterator[Trainer]:
        """A trainer for a while; closed at the end, whatever happens, or given back if nothing did.

        Give back only one that wrote nothing: no artefact is verified by the process that wrote it.
        """
        trainer = self.take(backbone_digest, store)
        try:
            yield trainer
        except BaseException:
            trainer.close()
            raise
        if give_back:
            self.give_back(trainer)
        else:
            trainer.close()

    def close(self) -> None:
        """End the spare."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()
