"""What clients did, when, and what they were told: the record that the checker reads afterwards.

`Caller` wraps one key's calls to the API. No call raises: an answer with an error, or none at all, is an
`Operation` like any other, since faults are what these tests are about.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

Json = dict[str, Any]


@dataclass
class Operation:
    """One call. `status` is None where no answer came; `error` then says why."""

    number: int
    kind: str  # predict, correct, confirm, lease, decide, get, post, …
    method: str
    path: str  # as called
    sent: Json  # what matters of the call: label, reporter, key, …
    began_at: float  # time.time()
    ended_at: float = 0.0
    status: int | None = None
    answer: Json = field(default_factory=dict)
    error: str | None = None

    @property
    def id(self) -> str | None:
        """Of the row that the call made, where it made one."""
        if self.kind == "predict" and self.status == 200:
            return str(self.answer["predictions"][0]["id"])
        found = self.answer.get("id") or self.answer.get("item")
        return str(found) if found else None

    @property
    def acknowledged(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


class History:
    """Every operation in the order of its beginning. Thread-safe."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def begin(self, kind: str, method: str, path: str, sent: Json) -> Operation:
        with self._lock:
            operation = Operation(next(self._numbers), kind, method, path, sent, time.time())
            self._operations.append(operation)
        return operation

    def __iter__(self) -> Iterator[Operation]:
        with self._lock:
            return iter(list(self._operations))

    def __len__(self) -> int:
        return len(self._operations)

    def of(self, *kinds: str) -> list[Operation]:
        return [operation for operation in self if operation.kind in kinds]

    def acknowledged(self, *kinds: str) -> list[Operation]:
        return [operation for operation in self.of(*kinds) if operation.acknowledged]

    def write(self, path: Path) -> None:
        """One line of JSON for each operation."""
        path.write_text("".join(json.dumps(asdict(operation)) + "\n" for operation in self))


class Caller:
    """One key's calls, each recorded. Safe to share between threads."""

    def __init__(self, history: History, address: str, key: str, *, timeout_s: float = 15.0) -> None:
        self.history = history
        self.http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def close(self) -> None:
        self.http.close()

    def predict(self, model: str, image: bytes) -> Operation:
        headers = {"Content-Type": "application/octet-stream"}
        path = f"/v1/models/{model}:predict"
        return self.call("predict", "POST", path, {"model": model}, content=image, headers=headers)

    def correct(
        self, prediction: str, label: str, *, reporter: str = "app", key: str | None = None
    ) -> Operation:
        """`key` goes as the Idempotency-Key: repeat the call with it until it is answered."""
        sent = {"prediction": prediction, "label": label, "reporter": reporter, "key": key}
        return self.call(
            "correct",
            "POST",
            f"/v1/predictions/{prediction}/corrections",
            sent,
            json={"label": label, "reporter": reporter},
            headers={"Idempotency-Key": key} if key else {},
        )

    def confirm(self, prediction: str, *, reporter: str = "app", key: str | None = None) -> Operation:
        sent = {"prediction": prediction, "reporter": reporter, "key": key}
        path = f"/v1/predictions/{prediction}/confirmations"
        headers = {"Idempotency-Key": key} if key else {}
        return self.call("confirm", "POST", path, sent, json={"reporter": reporter}, headers=headers)

    def lease(self, model: str, limit: int = 50) -> list[Json]:
        done = self.call("lease", "GET", f"/v1/models/{model}/review", {}, params={"limit": limit})
        return list(done.answer.get("items", []))

    def decide(self, item: Json, action: str, label: str | None = None) -> Operation:
        body = {"action": action} if label is None else {"action": action, "label": label}
        sent = body | {"item": item["item"], "etag": item["etag"], "prediction": item.get("prediction")}
        path = f"/v1/review/{item['item']}/decisions"
        return self.call("decide", "POST", path, sent, json=body, headers={"If-Match": item["etag"]})

    def train(self, model: str) -> Operation:
        return self.post(f"/v1/models/{model}/runs", {"kind": "head"}, kind="train")

    def get(self, path: str, **values: Any) -> Operation:
        return self.call("get", "GET", path, {}, **values)

    def post(self, path: str, body: Json | None = None, *, kind: str = "post", **values: Any) -> Operation:
        return self.call(kind, "POST", path, body or {}, json=body, **values)

    def call(self, kind: str, method: str, path: str, sent: Json, **request: Any) -> Operation:
        operation = self.history.begin(kind, method, path, sent)
        try:
            response = self.http.request(method, path, **request)
            operation.answer = _read(response)
            operation.status = response.status_code
        except httpx.HTTPError as error:
            operation.error = f"{type(error).__name__}: {error}"
        finally:
            operation.ended_at = time.time()
        return operation


def _read(response: httpx.Response) -> Json:
    try:
        found = response.json()
    except ValueError:
        return {"text": response.text[:500]} if response.content else {}
    return found if isinstance(found, dict) else {"value": found}


def until_acknowledged(call: Callable[[], Operation], patience_s: float = 30.0) -> Operation:
    """Repeat a call as a careful client does: while no answer comes, or 409, 429 or 5xx."""
    deadline = time.monotonic() + patience_s
    while True:
        done = call()
        if done.status is not None and done.status < 500 and done.status not in (409, 429):
            return done
        assert time.monotonic() < deadline, f"not answered in {patience_s:.0f} s: {done}"
        time.sleep(0.1)
