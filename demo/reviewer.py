"""The reviewer: answers what the queue offers, by the experts' labels, through the API."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from demo.book import Book, Entry
from demo.client import CallFailed, Client, Json

OPEN = {"pending", "disputed"}
CHANGED = 412


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
        while empty < 2 or waiting:
            items = self._client.lease(self._model)
            list(self._pool.map(self._decide, items))
            waiting -= self._decided
            if items:
                empty = 0
                continue
            empty += 1
            # An audit may be answered before its correction is in the queue: that decides both.
            waiting = {one for one in waiting if self._client.receipt(one)["state"] in OPEN}
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(waiting)} corrections were not offered for review in {patience_s:.0f} s"
                )
            time.sleep(0.15)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _decide(self, item: Json) -> None:
        action, label = choose_answer(item, self._book.find(item["prediction"]))
        try:
            self._client.decide(item, action, label)
        except CallFailed as error:
            if error.status != CHANGED:
                raise
            return  # a correction has come to it meanwhile: the queue offers it anew
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
