"""A client of Backtalk's API. This one file, with nothing but Python's own library: copy it where you like.

    client = Client("http://127.0.0.1:8000", key="bt_…")
    said = client.predict("animals", "photo.jpg")
    if said.label != "dog":
        client.correct(said, "dog")

What can be repeated without harm is repeated: after a lost connection, after 503 and 429 (for as long as
Retry-After says), and after 409 while the first call with an Idempotency-Key goes on. Every call that changes
something sends such a key, or what does its work: `client_ref` for `record`, the item's etag for `decide`.
"""

import http.client
import json
import random
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self, SupportsFloat, TypeVar
from urllib.parse import quote, urlencode, urlsplit

__all__ = [
    "Change",
    "Client",
    "Decided",
    "Decision",
    "Item",
    "NotPromoted",
    "Prediction",
    "Problem",
    "Receipt",
    "Recorded",
    "Run",
    "Stated",
    "Unreachable",
    "Version",
]

LONGEST_WAIT_S = 30.0  # between two tries, whatever Retry-After says
_FIRST_WAIT_S = 0.2
_PAGE = 200
_GOES_ON = 202  # a worker does what was asked for
# What it looks like when the other end has closed a connection; a timeout looks different.
_HUNG_UP = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

Picture = bytes | str | PathLike[str]
Shape = TypeVar("Shape", bound="_Shape")


# --- what goes wrong ---------------------------------------------------------------------------
class Problem(Exception):
    """The API refused. The members are those of its problem details (RFC 9457)."""

    def __init__(self, status: int, members: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.type = str(members.get("type", "about:blank"))
        self.title = str(members.get("title", ""))
        self.detail = str(members.get("detail", ""))
        self.request_id = str(members.get("request_id", ""))
        self.members = dict(members)  # all of them, such as `labels` or `reason`
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.kind}: {self.detail}")

    @property
    def kind(self) -> str:
        """The last word of `type`, such as `unknown-label`."""
        return self.type.rsplit(":", 1)[-1]


class Unreachable(Exception):
    """No answer came. What was asked may have been done, unless the connection was refused."""


class NotPromoted(Exception):
    """A worker was to make a version live and did not: its files are not what was verified, or another
    version went live before it.
    """


# --- what comes back ---------------------------------------------------------------------------
@dataclass(frozen=True)
class _Shape:
    """An answer. Members that this client does not know are left out, so that a newer API does no harm."""

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Self:
        return cls(**{field.name: members[field.name] for field in fields(cls) if field.name in members})


@dataclass(frozen=True)
class Prediction(_Shape):
    id: str
    label: str
    score: float  # of the label, 0 to 1
    scores: list[float]  # in the order of the model's labels
    model: str
    version: int


@dataclass(frozen=True)
class Recorded(_Shape):
    """A prediction that was made elsewhere."""

    id: str
    version: int
    label: str


@dataclass(frozen=True)
class Stated(_Shape):
    """A correction or confirmation, and its state just now."""

    id: str
    state: str


@dataclass(frozen=True)
class Receipt(_Shape):
    """What became of a correction."""

    id: str
    state: str
    image: str
    label: str
    reviewed_at: str | None
    split: str | None
    trained_in: int | None
    live_in: int | None
    fixed_now: bool | None


@dataclass(frozen=True)
class Item(_Shape):
    """Something to decide, leased to this key until `lease_until`."""

    item: str
    kind: str  # `correction` or `audit`
    prediction: str
    image: str
    image_url: str
    predicted: str
    scores: list[float]
    reported: str | None
    reporter: str | None
    note: str | None
    mark: str | None
    etag: str
    lease_until: str


@dataclass(frozen=True)
class Decided(_Shape):
    item: str
    action: str
    label: str | None
    final: bool


@dataclass(frozen=True)
class Decision(_Shape):
    """A prediction, and what would have been right (`label`). Audits alone are a fair sample."""

    id: str
    kind: str
    action: str
    label: str
    actor: str
    reporter: str | None
    decided_at: str
    prediction: str
    predicted: str
    scores: list[float]
    version: int
    made_elsewhere: bool
    predicted_at: str
    image: str
    image_url: str


@dataclass(frozen=True)
class Run(_Shape):
    id: str
    model: str
    kind: str
    state: str
    reason: str | None
    verdict: str | None
    version: int | None
    progress: dict[str, Any]
    created_at: str
    started_at: str | None
    ended_at: str | None
    checks: Sequence[dict[str, Any]] = ()  # of the gate; with `run` alone
    snapshot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Version(_Shape):
    number: int
    state: str
    run: str | None
    parent: int | None
    backbone_digest: str
    artefact_digest: str
    metrics: dict[str, Any]
    created_at: str
    asked_at: str | None = None  # while a worker is about to make it live


@dataclass(frozen=True)
class Change(_Shape):
    """What is live after a promotion or a rollback."""

    model: str
    version: int
    generation: int


# --- the client --------------------------------------------------------------------------------
class Client:
    """Calls with one key. Threads may share it: each has a connection of its own.

    Every method raises `Problem` where the API refuses, and `Unreachable` where no answer came.
    """

    def __init__(
        self,
        address: str,
        key: str,
        *,
        timeout_s: float = 15.0,
        retries: int = 4,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError: `address` is not `http://…` or `https://…`, or `key` cannot be a key.

        White space around the key is taken off: a file ends with a line end.
        """
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{address!r} is no address such as https://backtalk.example.org")
        self._parts, self._base = parts, parts.path.rstrip("/")
        self._key = key.strip()
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise ValueError("the key has characters in it that no key has")  # which ones is a secret
        self._timeout_s = timeout_s
        self._retries = retries
        self._context = context
        self._own = threading.local()

    # --- predictions and what is said about them
    def predict(self, model: str, image: Picture) -> Prediction:
        """Ask about one image: JPEG, PNG or WebP, its bytes or the path of a file."""
        answer = self._call(
            "POST",
            f"/v1/models/{_part(model)}:predict",
            _read(image),
            {"Content-Type": "application/octet-stream", "Idempotency-Key": _new_key()},
        )
        one = answer["predictions"][0]
        return Prediction.read(one | {"model": answer["model"], "version": answer["version"]})

    def record(
        self,
        model: str,
        image: Picture,
        label: str,
        *,
        version: int | None = None,
        scores: Iterable[SupportsFloat] | None = None,
        client_ref: str | None = None,
    ) -> Recorded:
        """Report what a device predicted. However often it is sent under one `client_ref`, it is one.

        `scores` are numbers of any kind, such as a NumPy array, in the order of the model's labels.
        """
        given = {
            "label": label,
            "version": version,
            "scores": None if scores is None else json.dumps([float(score) for score in scores]),
            "client_ref": client_ref or _new_key(),
        }
        form = {name: str(value) for name, value in given.items() if value is not None}
        body, type_ = _write_form(form, _read(image))
        answer = self._call("POST", f"/v1/models/{_part(model)}/predictions", body, {"Content-Type": type_})
        return Recorded.read(answer)

    def correct(
        self,
        prediction: Prediction | Recorded | str,
        label: str,
        *,
        reporter: str | None = None,
        note: str | None = None,
    ) -> Stated:
        """Say that a prediction was wrong, and what is right."""
        body = {"label": label, "reporter": reporter, "note": note}
        return Stated.read(self._post(f"/v1/predictions/{_id(prediction)}/corrections", body))

    def confirm(self, prediction: Prediction | Recorded | str, *, reporter: str | None = None) -> Stated:
        """Say that a prediction was right."""
        body = {"reporter": reporter}
        return Stated.read(self._post(f"/v1/predictions/{_id(prediction)}/confirmations", body))

    def receipt(self, correction: Stated | str) -> Receipt:
        """What became of a correction."""
        return Receipt.read(self._get(f"/v1/corrections/{_id(correction)}"))

    # --- review
    def lease(self, model: str, limit: int = 20) -> list[Item]:
        """The next items to decide; the own open ones first."""
        answer = self._get(f"/v1/models/{_part(model)}/review", limit=limit)
        return [Item.read(item) for item in answer["items"]]

    def decide(self, item: Item, action: str, label: str | None = None) -> Decided:
        """`approve`, `relabel` (with `label`), `reject`, `skip` or `flag`.

        It is not repeated once it was sent: if the answer is lost, `Unreachable` is raised, and `lease` shows
        whether the item is still open.
        """
        answer = self._post(
            f"/v1/review/{item.item}/decisions",
            {"action": action, "label": label},
            {"If-Match": item.etag},
            repeatable=False,
        )
        return Decided.read(answer)

    def picture(self, of: Item | Decision) -> bytes:
        """The picture, re-encoded as JPEG of at most 1,024 pixels a side."""
        return self._send("GET", of.image_url, None, {}, repeatable=True).data

    def decisions(self, model: str) -> Iterator[Decision]:
        """Predictions of which somebody decided what is right, newest first."""
        return self._walk(f"/v1/models/{_part(model)}/decisions", Decision)

    def sources(self, model: str) -> list[dict[str, Any]]:
        """For each key what it said and how that turned out, the most doubtful first."""
        items: list[dict[str, Any]] = self._get(f"/v1/models/{_part(model)}/reporters")["items"]
        return items

    # --- models
    def model(self, model: str) -> dict[str, Any]:
        """Name, live version, generation, labels."""
        return self._get(f"/v1/models/{_part(model)}")

    def versions(self, model: str) -> Iterator[Version]:
        """Newest first."""
        return self._walk(f"/v1/models/{_part(model)}/versions", Version)

    def device_file(self, model: str, version: int, form: str = "float32", *, wait_s: float = 180.0) -> bytes:
        """A version as one LiteRT file: `float32`, `float16`, `dynamic`, or `int8` of an 8-bit version.

        Where it has to be made first, this waits for it, `wait_s` at most; then `Unreachable` is raised.
        """
        path = f"/v1/models/{_part(model)}/versions/{int(version)}/files/{_part(form)}"
        until = time.monotonic() + wait_s
        while True:
            answer = self._send("GET", path, None, {}, repeatable=True)
            if answer.status != _GOES_ON:
                return answer.data
            if not _pause(answer.retry_after_s, until):
                raise Unreachable(f"{form} of version {version} was not made within {wait_s:g} s")

    def promote(self, model: str, version: int, *, wait_s: float = 180.0) -> Change:
        """Make a version live, and return once it is.

        Where the API may not write its store a worker does it, and this waits, `wait_s` at most; then
        `Unreachable` is raised, and it may go live later. If it is not going to, `NotPromoted` is raised.
        """
        path = f"/v1/models/{_part(model)}/versions/{int(version)}:promote"
        until = time.monotonic() + wait_s
        answer = self._send("POST", path, None, {"Idempotency-Key": _new_key()}, repeatable=True)
        asked = Change.read(json.loads(answer.data))
        if answer.status != _GOES_ON:
            return asked
        while _pause(answer.retry_after_s, until):
            if not self._is_asked_for(asked):
                return self._get_settled(asked)
        raise Unreachable(f"version {version} of {model} was asked for, and not live within {wait_s:g} s")

    def _is_asked_for(self, asked: Change) -> bool:
        versions = self.versions(asked.model)
        return any(one.number == asked.version and one.asked_at is not None for one in versions)

    def _get_settled(self, asked: Change) -> Change:
        now = Change.read(self.model(asked.model))
        if now.version == asked.version:
            return now
        changed = now.generation != asked.generation
        why = f"version {now.version} went live" if changed else "a worker refused it, as its log tells"
        raise NotPromoted(f"version {asked.version} of {asked.model} was asked for and is not live: {why}")

    def rollback(self, model: str) -> Change:
        """Go back to the version before; sets `hold`."""
        return Change.read(self._post(f"/v1/models/{_part(model)}:rollback"))

    def train(self, model: str, kind: str = "head", recipe: str | None = None) -> str:
        """Ask for a run, and return its id."""
        body = {"kind": kind, "recipe": recipe}
        return str(self._post(f"/v1/models/{_part(model)}/runs", body)["id"])

    def runs(self, model: str) -> Iterator[Run]:
        """Newest first, without checks and snapshot."""
        return self._walk(f"/v1/models/{_part(model)}/runs", Run)

    def run(self, run: str) -> Run:
        """One run, with the checks of its last judgement."""
        return Run.read(self._get(f"/v1/runs/{_part(run)}"))

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
        self._own.connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- how
    def _walk(self, path: str, shape: type[Shape]) -> Iterator[Shape]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self._get(path, limit=_PAGE, cursor=cursor)
            yield from (shape.read(item) for item in page["items"])
            cursor = page["next"]
            if cursor is None:
                return

    def _get(self, path: str, **query: object) -> dict[str, Any]:
        given = urlencode({name: value for name, value in query.items() if value is not None})
        return self._call("GET", f"{path}?{given}" if given else path)

    def _post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        given = {name: value for name, value in (body or {}).items() if value is not None}
        sent = dict(headers or {"Idempotency-Key": _new_key()})
        data = None if body is None else json.dumps(given).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        return self._call("POST", path, data, sent, repeatable=repeatable)

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        sent = self._send(method, path, body, headers or {}, repeatable)
        answer: dict[str, Any] = json.loads(sent.data)
        return answer

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], repeatable: bool
    ) -> "_Answer":
        """The answer, after as many tries as it takes and as there may be."""
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            wait_s = _FIRST_WAIT_S * 2**attempt * random.uniform(0.75, 1.25)
            try:
                return self._try_once(method, path, body, headers, repeatable)
            except Problem as problem:
                if last or not _may_pass(problem, repeatable):
                    raise
                wait_s = max(wait_s, problem.retry_after_s or 0.0)
            except Unreachable as error:
                began = not isinstance(error.__cause__, (ConnectionRefusedError, socket.gaierror))
                if last or (began and not repeatable):
                    raise
            time.sleep(min(wait_s, LONGEST_WAIT_S))
        raise AssertionError("the last try returns or raises")

    def _try_once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], repeatable: bool
    ) -> "_Answer":
        if not repeatable:
            self.close()  # a connection that was kept may be dead, and only sending would tell
        was_kept = self._connect().sock is not None
        try:
            return self._exchange(method, path, body, headers)
        except Unreachable as error:
            if not (repeatable and was_kept and isinstance(error.__cause__, _HUNG_UP)):
                raise
        # The server let go of a connection that had been idle for long: that is no failure, and no try.
        return self._exchange(method, path, body, headers)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> "_Answer":
        connection = self._connect()
        given = {"Authorization": f"Bearer {self._key}", "Accept": "application/json", **headers}
        try:
            connection.request(method, self._base + path, body, given)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            where = f"{self._parts.scheme}://{self._parts.netloc}"
            raise Unreachable(f"{method} {path}: no answer from {where}: {error}") from error
        if response.status < 300:
            return _Answer(response.status, data, _read_wait(response))
        raise _read_problem(response, data)

    def _connect(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            if self._parts.scheme == "https":
                connection = http.client.HTTPSConnection(
                    host, port, timeout=self._timeout_s, context=self._context
                )
            else:
                connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
            self._own.connection = connection
        return connection


class _Answer(NamedTuple):
    status: int
    data: bytes
    retry_after_s: float | None


def _may_pass(problem: Problem, repeatable: bool) -> bool:
    """Whether the same call may succeed a little later, and cannot be done twice."""
    if problem.status == 429 or problem.kind == "overloaded":  # refused before anything was done
        return True
    if problem.status == 409:  # the first call with this key is still going on
        return repeatable and problem.kind == "conflict"
    return repeatable and problem.status == 503


def _read_problem(response: http.client.HTTPResponse, data: bytes) -> Problem:
    try:
        members = json.loads(data)
    except ValueError:
        members = {}
    if not isinstance(members, dict) or "detail" not in members:  # a proxy in between speaks for itself
        members = {"title": response.reason, "detail": data[:200].decode("utf-8", "replace")}
    return Problem(response.status, members, _read_wait(response))


def _read_wait(response: http.client.HTTPResponse) -> float | None:
    """Seconds after which to ask again; none where the answer says nothing, or a date."""
    try:
        return float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None


def _pause(retry_after_s: float | None, until: float) -> bool:
    """Wait before asking again; False, and at once, where that would be later than `until` (monotonic)."""
    pause_s = min(retry_after_s or _FIRST_WAIT_S, LONGEST_WAIT_S)
    if time.monotonic() + pause_s > until:
        return False
    time.sleep(pause_s)
    return True


def _read(image: Picture) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _id(what: Prediction | Recorded | Stated | str) -> str:
    return _part(what if isinstance(what, str) else what.id)


def _part(name: str) -> str:
    return quote(name, safe="")


def _new_key() -> str:
    return uuid.uuid4().hex


def _write_form(form: Mapping[str, str], image: bytes) -> tuple[bytes, str]:
    """A multipart/form-data body with the file `image`, and its content type."""
    boundary = _new_key()
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in form.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    parts += [head.encode(), image, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
