"""The Python client against the real API over real sockets, also where the network misbehaves."""

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from werkzeug.serving import WSGIRequestHandler, make_server

from backtalk import bootstrap, promotion, review
from backtalk import client as client_module
from backtalk.client import Change, Client, NotPromoted, Problem, Recorded, Unreachable
from backtalk.config import Settings
from backtalk.tables import Confirmation, Correction, Prediction, ReviewItem
from tests import factories
from tests.clients import Api, make_api
from tests.faults.proxy import Proxy
from tests.served import CANDIDATE, LABELS, go_live, make_jpeg, make_served_model, unpublish

ROOT = Path(__file__).parents[2]


class Front:
    """In front of the app: may answer the next calls itself, as a busy server would; notes what comes."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.refusals: list[tuple[str, list[tuple[str, str]], bytes]] = []
        self.files: dict[str, bytes] = {}  # what it answers itself, by path, to every call
        self.seen: list[tuple[str, str, str | None]] = []  # method, path, Idempotency-Key

    def refuse(self, status: str, kind: str, **headers: str) -> None:
        body = f'{{"type": "urn:backtalk:problem:{kind}", "detail": "Not now."}}'.encode()
        self.refusals.append((status, [(name.replace("_", "-"), one) for name, one in headers.items()], body))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        key = environ.get("HTTP_IDEMPOTENCY_KEY")
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], key))
        if environ["PATH_INFO"] in self.files:
            start_response("200 OK", [("Content-Type", "application/octet-stream")])
            return [self.files[environ["PATH_INFO"]]]
        if not self.refusals:
            return self._app(environ, start_response)
        status, headers, body = self.refusals.pop(0)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Length", str(len(body))), *headers])
        return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # one call a connection, all the same

    def log(self, *_: Any) -> None:
        pass


@contextmanager
def serve(app: Any) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()


@pytest.fixture
def served(api: Api, tiny_folder: Path) -> Api:
    make_served_model(api.system, tiny_folder, versions=3)
    return api


@pytest.fixture
def front(served: Api) -> Front:
    return Front(served.app)


@pytest.fixture
def port(front: Front) -> Iterator[int]:
    with serve(front) as port:
        yield port


@pytest.fixture
def client(port: int, served: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(client_module, "_FIRST_WAIT_S", 0.01)
    with Client(f"http://127.0.0.1:{port}", served.token) as client:
        yield client


def count(api: Api, table: type[Any]) -> int:
    with api.system.db.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def prepare(api: Api, *predictions: str) -> None:
    with api.system.db.transaction() as session:
        for prediction in predictions:
            review.prepare_prediction(session, prediction)


def test_the_whole_loop_by_the_client(client: Client, served: Api, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(make_jpeg(1))
    said = client.predict("animals", path)
    assert (said.model, said.version) == ("animals", 1)
    assert said.label == LABELS[said.scores.index(said.score)]
    wrong = next(label for label in LABELS if label != said.label)
    stated = client.correct(said, wrong, reporter="zoë", note="it barks – surely")
    assert stated.state == "pending"
    assert client.receipt(stated).label == wrong

    other = client.predict("animals", make_jpeg(2))
    assert client.confirm(other.id).state == "active"

    made = client.record("animals", make_jpeg(3), "cat", version=2, scores=[0.8, 0.1, 0.1], client_ref="a/1")
    assert made == Recorded(made.id, 2, "cat")
    assert (
        client.record("animals", make_jpeg(3), "cat", version=2, scores=[0.8, 0.1, 0.1], client_ref="a/1")
        == made
    )
    client.correct(made, "owl")

    prepare(served, said.id, made.id)
    items = {item.prediction: item for item in client.lease("animals")}
    assert items.keys() == {said.id, made.id}
    assert (items[said.id].reporter, items[said.id].note) == ("zoë", "it barks – surely")
    assert client.picture(items[said.id]).startswith(b"\xff\xd8\xff")
    assert client.decide(items[said.id], "approve").final
    assert client.decide(items[made.id], "relabel", "dog").label == "dog"
    assert client.receipt(stated).state == "approved"
    with pytest.raises(Problem) as refused:
        client.decide(items[said.id], "approve")
    assert (refused.value.status, refused.value.kind) == (412, "item-changed")

    decided = {one.prediction: one for one in client.decisions("animals")}
    assert {one.label for one in decided.values()} == {wrong, "dog"}
    assert (decided[made.id].predicted, decided[made.id].made_elsewhere) == ("cat", True)
    assert decided[said.id].scores == pytest.approx(said.scores)
    assert client.picture(decided[said.id])

    run = client.train("animals")
    assert [one.id for one in client.runs("animals")] == [run]
    assert (client.run(run).state, client.run(run).checks) == ("queued", [])
    assert client.model("animals")["labels"] == list(LABELS)


def test_lists_are_walked_to_their_end(client: Client, served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAGE", 2)
    with served.system.db.transaction() as session:
        model = factories.make_model(session, "plants")
        for number in range(2, 8):
            factories.make_version(session, model, number)
        for label in ("cat", "dog", "dog"):
            factories.make_decision(session, model, label)
        factories.make_decision(session, model, "cat", counts=False)
        undone = factories.make_decision(session, model, "cat")
        item = session.get_one(ReviewItem, undone.item_id)
        undo = {"action": "undo", "undoes": undone.id, "final": False, "counts": False}
        factories.make_decision(session, model, item=item, **undo)
    assert [version.number for version in client.versions("plants")] == [7, 6, 5, 4, 3, 2, 1]
    assert [one.label for one in client.decisions("plants")] == ["dog", "dog", "cat"]
    assert list(client.runs("plants")) == []


def test_refusals_are_problems_with_their_members(client: Client, served: Api) -> None:
    said = client.predict("animals", make_jpeg())
    with pytest.raises(Problem) as unknown:
        client.correct(said, "brid")
    assert (unknown.value.status, unknown.value.kind) == (422, "unknown-label")
    assert unknown.value.members["labels"] == list(LABELS)
    assert unknown.value.request_id
    assert "brid" in str(unknown.value)
    with pytest.raises(Problem) as missing:
        client.predict("no such/model", make_jpeg())
    assert missing.value.status == 404
    with pytest.raises(Problem) as live:
        client.promote("animals", 1)
    assert live.value.status == 409
    with pytest.raises(Problem) as first:
        client.rollback("animals")
    assert first.value.kind == "nothing-to-roll-back"
    with pytest.raises(ValueError, match="is no address"):
        Client("127.0.0.1:8000", "bt_x")


def test_what_passes_is_waited_for_with_one_key(client: Client, front: Front, served: Api) -> None:
    said = client.predict("animals", make_jpeg())
    front.seen.clear()
    front.refuse("503 Service Unavailable", "database-away", Retry_After="0")
    front.refuse("429 Too Many Requests", "too-many-requests", Retry_After="0")
    front.refuse("409 Conflict", "conflict")
    wrong = next(label for label in LABELS if label != said.label)
    client.correct(said, wrong)
    assert len(front.seen) == 4
    assert len(set(front.seen)) == 1
    assert front.seen[0][2]
    assert count(served, Correction) == 1


def test_retry_after_is_heeded(client: Client, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    front.refuse("503 Service Unavailable", "overloaded", Retry_After="7")
    front.refuse("503 Service Unavailable", "overloaded", Retry_After="86400")
    client.model("animals")
    assert slept == [7.0, client_module.LONGEST_WAIT_S]


def test_what_will_not_pass_is_not_repeated(client: Client, front: Front) -> None:
    for status, kind in (("409 Conflict", "run-active"), ("500 Internal Server Error", "x")):
        front.seen.clear()
        front.refuse(status, kind)
        with pytest.raises(Problem):
            client.train("animals")
        assert len(front.seen) == 1
    front.seen.clear()
    for _ in range(5):
        front.refuse("503 Service Unavailable", "database-away")
    with pytest.raises(Problem) as away:
        client.model("animals")
    assert (away.value.status, len(front.seen)) == (503, 5)


def test_a_lost_answer_costs_no_second_statement(
    port: int, front: Front, served: Api, client: Client
) -> None:
    """The call is done, the answer is lost, the connection dies: the repeat finds what the first one did."""
    said = client.predict("animals", make_jpeg())
    wrong = next(label for label in LABELS if label != said.label)
    with Proxy(("127.0.0.1", port)) as proxy:
        shaky = Client(f"http://127.0.0.1:{proxy.port}", served.token, timeout_s=1.0)
        proxy.swallow_answers()
        threading.Timer(1.5, proxy.heal).start()
        stated = shaky.correct(said, wrong)
        assert (stated.state, count(served, Correction)) == ("pending", 1)
        proxy.swallow_answers()
        threading.Timer(1.5, proxy.heal).start()
        shaky.record("animals", make_jpeg(4), "cat")
        assert count(served, Prediction) == 2
        prepare(served, said.id)
        (item,) = client.lease("animals")
        proxy.swallow_answers()
        with pytest.raises(Unreachable, match="no answer"):
            shaky.decide(item, "approve")
        assert [method for method, path, _ in front.seen if path.endswith("/decisions")] == ["POST"]
        proxy.heal()
        assert [one.label for one in shaky.decisions("animals")] == [wrong]  # done, and only once
        proxy.refuse()
        with pytest.raises(Unreachable) as away:
            Client(f"http://127.0.0.1:{proxy.port}", served.token, retries=1).model("animals")
        assert isinstance(away.value.__cause__, ConnectionRefusedError)


# --- a promotion that a worker does ----------------------------------------------------------------
class Waiting:
    """The client's clock: each time that it waits, the next of `meanwhile` happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept_s: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []
        monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=self._sleep, monotonic=self._now))

    def _now(self) -> float:
        return sum(self.slept_s)

    def _sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


@pytest.fixture
def reading(waiting: Waiting, served: Api, settings: Settings) -> Iterator[Client]:
    """A client of an API that may not write the store; version 2 was never published."""
    unpublish(served.system, 2)
    system = bootstrap.build(settings.model_copy(update={"store_readonly": True}), pool_size=5)
    with serve(make_api(system).app) as port, Client(f"http://127.0.0.1:{port}", served.token) as client:
        yield client
    system.close()


def test_a_promotion_returns_once_the_version_is_live(waiting: Waiting, reading: Client, served: Api) -> None:
    waiting.meanwhile = [lambda: None, lambda: None, lambda: promotion.promote_asked(served.system)]
    assert reading.promote("animals", 2) == Change("animals", 2, 2)
    assert waiting.slept_s == [1.0] * 3  # what Retry-After says
    assert reading.model("animals")["version"] == 2
    assert reading.rollback("animals").version == 1
    assert reading.promote("animals", 2) == Change("animals", 2, 4)  # published by now: at once
    assert len(waiting.slept_s) == 3


def test_a_promotion_that_is_not_done_in_time_is_told(waiting: Waiting, reading: Client) -> None:
    with pytest.raises(Unreachable, match=r"version 2 of animals was asked for, and not live within 2.5 s"):
        reading.promote("animals", 2, wait_s=2.5)
    assert waiting.slept_s == [1.0, 1.0]
    assert [one.asked_at is not None for one in reading.versions("animals")] == [False, True, False]


def test_a_promotion_that_will_not_be_done_is_told_with_the_reason(
    waiting: Waiting, reading: Client, served: Api
) -> None:
    head = served.system.versions.resolve(CANDIDATE) / "head.npz"
    whole = head.read_bytes()

    def spoil() -> None:
        head.write_bytes(whole[:-1])
        promotion.promote_asked(served.system)

    waiting.meanwhile = [spoil]
    with pytest.raises(NotPromoted, match="version 2 of animals was asked for and is not live: a worker"):
        reading.promote("animals", 2)
    head.write_bytes(whole)

    def come_first() -> None:
        go_live(served.system, "animals", 3)
        promotion.promote_asked(served.system)

    waiting.meanwhile = [come_first]
    with pytest.raises(NotPromoted, match="version 3 went live"):
        reading.promote("animals", 2)


def test_scores_may_be_numbers_of_any_kind(client: Client, served: Api) -> None:
    given = np.array([0.7, 0.2, 0.1], np.float32)
    for scores in (given, list(given), (1, 0, 0), np.float64([0.7, 0.2, 0.1])):
        made = client.record("animals", make_jpeg(5), "cat", scores=scores)
        with served.system.db.reading() as session:
            kept = session.get_one(Prediction, made.id).scores
            assert np.array_equal(np.float32(kept), np.float32(scores))


def test_white_space_around_a_key_is_taken_off_and_a_bad_key_is_not_shown(port: int, served: Api) -> None:
    with Client(f"http://127.0.0.1:{port}", f" {served.token}\r\n") as client:
        assert client.model("animals")["version"] == 1
    for bad in ("bt_se\ncret", "bt_se cret", "bt_secret…", "bt_se\0cret"):
        with pytest.raises(ValueError, match="the key has characters in it") as refused:
            Client(f"http://127.0.0.1:{port}", bad)
        assert "cret" not in str(refused.value)


def test_threads_share_a_client(client: Client, served: Api) -> None:
    found: list[str] = []

    def ask(seed: int) -> None:
        found.append(client.predict("animals", make_jpeg(seed)).id)
        client.close()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4


# --- what the documents show -----------------------------------------------------------------------
def find_example(document: str, address: str, key: str) -> str:
    """The block of Python that is marked, with another address and key."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(r"<!-- python: .*?-->\n```python\n(.*?)```", text, re.DOTALL)
    assert found
    return re.sub(r'Client\("http[^"]*", key="[^"]*"', f'Client("{address}", key="{key}"', found[1])


@pytest.mark.parametrize("labels", [("cat", "dog"), ("dog", "cat")])  # so that both branches run
@pytest.mark.parametrize(("document", "versions"), [("README.md", 1), ("docs/client.md", 4)])
def test_the_examples_work_as_written(
    api: Api,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: str,
    versions: int,
    labels: tuple[str, str],
) -> None:
    make_served_model(api.system, tiny_folder, versions=versions, labels=list(labels))
    front = Front(api.app)
    front.files["/v1/models/animals/versions/4/files/float16"] = b"TFL3"  # to make one takes minutes
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(make_jpeg(1))
    with serve(front) as port:
        exec(find_example(document, f"http://127.0.0.1:{port}", api.token), {})
    with api.system.db.reading() as session:
        said = set(session.scalars(select(Prediction.label).where(~Prediction.made_elsewhere)))
    assert said == {labels[1]}
    confirmed = said == {"dog"} and document == "docs/client.md"
    assert (count(api, Correction), count(api, Confirmation)) == (int(said == {"cat"}), int(confirmed))


def test_it_needs_nothing_but_pythons_own_library(tmp_path: Path) -> None:
    source = Path(client_module.__file__).read_text(encoding="utf-8")
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)
    (tmp_path / "client.py").write_text(source, encoding="utf-8")
    command = [
        sys.executable,
        "-S",
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import client",
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
