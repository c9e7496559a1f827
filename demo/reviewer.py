"""The reviewer: answers what the queue offers, by the experts' labels, through the API."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from demo.book import Book, Entry
from demo.client import Client, Json


class Reviewer:
    """Approves right reports, relabels wrong ones, answers audits truthfully.

    Audits that the measurer caused are rejected, so that nothing measured is ever learned from.
    """

    def __init__(self, client: Client, model: str, book: Book, *, threads: int = 4) -> None:
        self._client = client
        self._model = model
        self._book = book
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reviewer")
        self._decided: set[str] = set()  # ids of corrections
        self.labels: list[float] = []  # when each decision with a right label was made, seconds since 1970

    def work_off(self, corrections: Iterable[str] = (), *, patience_s: float = 60.0) -> None:
        """Decide until `corrections` are all decided and the queue has been empty twice.

        Raises:
            TimeoutError: a correction was not offered within `patience_s`.
        """
        waiting = set(corrections)
        deadline = time.monotonic() + patience_s
        empty = 0
        while empty < 2 or not waiting <= self._decided:
            items = self._client.lease(self._model)
            list(self._pool.map(self._decide, items))
            empty = 0 if items else empty + 1
            if time.monotonic() > deadline:
                missing = len(waiting - self._decided)
                raise TimeoutError(f"{missing} corrections were not offered for review in {patience_s:.0f} s")
            if not items:
                time.sleep(0.15)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _decide(self, item: Json) -> None:
        action, label = choose_answer(item, self._book.find(item["prediction"]))
        self._client.decide(item, action, label)
        if action != "reject":
            self.labels.append(time.time())
        if item["correction"]:
            self._decided.add(item["correction"])


def choose_answer(item: Json, entry: Entry | None) -> tuple[str, str | None]:
    """Action and label, by the experts' word; what was measured, and what nobody knows, teaches nothing."""
    if entry is None or entry.measured:
        return "reject", None
    claimed = item["reported"] if item["kind"] == "correction" else item["predicted"]
    if claimed == entry.cell.label:
        return "approve", None
    return "relabel", entry.cell.label
