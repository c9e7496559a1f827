"""The app: sends cells, says so when an answer is wrong, and now and then when it is right."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from demo.book import Book, Entry
from demo.cells import Cell
from demo.client import Client

CONFIRMED_SHARE = 0.2
REPORTER = "line-4"


@dataclass(frozen=True)
class Told:
    """One exchange with the service."""

    cell: Cell
    label: str  # what was answered
    score: float
    version: int
    correction_id: str | None  # set where the answer was wrong

    @property
    def right(self) -> bool:
        return self.label == self.cell.label


class App:
    """Plays production: `threads` requests at a time."""

    def __init__(self, client: Client, model: str, book: Book, *, seed: int, threads: int = 4) -> None:
        self._client = client
        self._model = model
        self._book = book
        self._seed = seed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="app")

    def send(self, cells: Sequence[Cell]) -> list[Told]:
        """Ask about each cell and give feedback on the answer."""
        return list(self._pool.map(self._ask, cells))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, cell: Cell) -> Told:
        answer = self._client.predict(self._model, cell.read())
        self._book.note(answer["id"], Entry(cell, measured=False))
        correction_id = None
        if answer["label"] != cell.label:
            correction_id = self._client.correct(answer["id"], cell.label, REPORTER)["id"]
        elif random.Random(f"{self._seed}/{cell.name}").random() < CONFIRMED_SHARE:
            self._client.confirm(answer["id"], REPORTER)
        return Told(cell, answer["label"], answer["score"], answer["version"], correction_id)
