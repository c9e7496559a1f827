"""The measurer: asks the live version about cells that nobody ever talks back about."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from demo.book import Book, Entry
from demo.cells import Cell
from demo.client import Client


@dataclass(frozen=True)
class Measurement:
    """What one version answered, over HTTP, about every untouched cell."""

    version: int
    labels: dict[Cell, str]

    def accuracy(self, module: str) -> float:
        """Share of right answers on one kind of module, 0 to 1."""
        right = [label == cell.label for cell, label in self.labels.items() if cell.module == module]
        return sum(right) / len(right)

    def changes_since(self, before: "Measurement") -> tuple[int, int]:
        """(fixed, broken): wrong before and right now, and the other way round."""
        fixed = broken = 0
        for cell, label in self.labels.items():
            was_right, is_right = before.labels[cell] == cell.label, label == cell.label
            fixed += is_right and not was_right
            broken += was_right and not is_right
        return fixed, broken


class Measurer:
    """Uses a key of its own and gives no feedback."""

    def __init__(
        self, client: Client, model: str, book: Book, cells: Sequence[Cell], threads: int = 4
    ) -> None:
        self._client = client
        self._model = model
        self._book = book
        self._cells = cells
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="measurer")

    def measure(self, version: int, *, patience_s: float = 30.0) -> Measurement:
        """Ask `version` about every cell, as soon as it answers.

        Raises:
            TimeoutError: another version goes on answering.
        """
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self._ask(self._cells[0])[1] != version:  # the swap takes the server a moment
                time.sleep(0.1)
                continue
            answers = list(self._pool.map(self._ask, self._cells))
            if {answered for _, answered in answers} == {version}:
                labels = {cell: label for cell, (label, _) in zip(self._cells, answers, strict=True)}
                return Measurement(version, labels)
        raise TimeoutError(f"Version {version} is live, but after {patience_s:.0f} s another one answers.")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, cell: Cell) -> tuple[str, int]:
        answer = self._client.predict(self._model, cell.read())
        self._book.note(answer["id"], Entry(cell, measured=True))
        return answer["label"], answer["version"]
