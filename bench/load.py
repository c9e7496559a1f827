"""Requests as fast as a server answers them, from a process of its own, as clients elsewhere send them."""

import json
import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from bench.wire import Wire, write_request


@dataclass(frozen=True)
class Answer:
    """One request: when it ended (seconds of `time.monotonic`), how long it took, and what came."""

    at_s: float
    took_s: float
    status: int  # 0 where no answer came
    prediction: str | None
    version: int | None


@dataclass(frozen=True)
class Target:
    """Whom to ask, and what with."""

    address: str
    path: str
    key: str
    images: Sequence[bytes] = field(repr=False)
    clients: int = 8


class Load:
    """Runs while its block runs; `answers` afterwards."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._mine, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(self._target, theirs), daemon=True)
        self._process.start()
        self._mine.recv()  # the clients are up
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mine.send("stop")
        self.answers = self._mine.recv()
        self._process.join()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _run(target: Target, pipe: Connection) -> None:
    stop = threading.Event()
    answers: list[list[Answer]] = [[] for _ in range(target.clients)]
    threads = [
        threading.Thread(target=_ask_until, args=(target, number, stop, answers[number]))
        for number in range(target.clients)
    ]
    for thread in threads:
        thread.start()
    pipe.send("up")
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send([answer for of_one in answers for answer in of_one])


def _ask_until(target: Target, number: int, stop: threading.Event, answers: list[Answer]) -> None:
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/octet-stream"}
    turn = number
    with Wire(target.address) as wire:
        while not stop.is_set():
            image = target.images[turn % len(target.images)]
            turn += target.clients
            answers.append(_ask(wire, write_request(target.address, target.path, image, headers)))


def _ask(wire: Wire, request: bytes) -> Answer:
    began = time.monotonic()
    status, prediction, version = 0, None, None
    try:
        status, body = wire.ask(request)
        if status == 200:
            said = json.loads(body)
            prediction, version = said["predictions"][0].get("id"), said.get("version")
    except OSError:
        pass  # status 0; the next request opens the connection anew
    ended = time.monotonic()
    return Answer(ended, ended - began, status, prediction, version)
