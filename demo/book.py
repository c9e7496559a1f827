"""What the demo knows and the service does not: which cell each prediction was about, and what is right."""

from dataclasses import dataclass
from threading import Lock

from demo.cells import Cell


@dataclass(frozen=True)
class Entry:
    cell: Cell
    measured: bool  # asked by the measurer: nothing may be learned from it


class Book:
    """Predictions by id, shared by the app, the reviewer and the measurer of one demo."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = Lock()

    def note(self, prediction_id: str, entry: Entry) -> None:
        with self._lock:
            self._entries[prediction_id] = entry

    def find(self, prediction_id: str) -> Entry | None:
        with self._lock:
            return self._entries.get(prediction_id)
