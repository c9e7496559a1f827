"""The real server: what it refuses, whom it does not wait for, and how it ends."""

import json
import re
import runpy
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
import yaml
from gunicorn.config import KNOWN_SETTINGS

from backtalk import embedded
from backtalk.config import Settings
from backtalk.system import System
from services import wsgi
from services.api import admission
from tests.clients import make_key
from tests.gunicorns import Gunicorn, serve_gunicorn
from tests.served import make_jpeg, make_served_model

ROOT = Path(__file__).parents[2]
PREDICT = "/v1/models/animals:predict"


# --- settings that agree -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def conf() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "services" / "gunicorn_conf.py"))


def test_every_name_in_the_file_is_one_that_gunicorn_knows(conf: dict[str, object]) -> None:
    known = {setting.name for setting in KNOWN_SETTINGS}
    given = {name for name in conf if name.islower() and not name.startswith("_")}
    assert given - known <= {"math"}


def test_there_are_threads_for_all_that_are_let_in_and_some_to_refuse_the_rest(
    conf: dict[str, object],
) -> None:
    settings = Settings()
    assert settings.api_threads < settings.max_in_flight < conf["threads"] < conf["worker_connections"]


def test_whoever_was_let_in_is_answered_before_the_server_gives_up_on_its_threads(
    conf: dict[str, object],
) -> None:
    longest_s = Settings().body_timeout_s + admission.TURN_WAIT_S + wsgi.ANSWER_TIMEOUT_S
    assert longest_s < conf["graceful_timeout"] < conf["timeout"]


def test_whoever_stops_the_server_waits_for_it(conf: dict[str, object]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    given = re.fullmatch(r"(\d+)s", compose["services"]["api"]["stop_grace_period"])
    assert given
    assert int(given[1]) > conf["graceful_timeout"]
    assert embedded.API_GRACE_S < embedded.STOP_TIMEOUT_S


def test_a_caller_hears_within_three_seconds_that_the_database_is_away() -> None:
    assert wsgi.LOCK_TIMEOUT_S < wsgi.STATEMENT_TIMEOUT_S < wsgi.ANSWER_TIMEOUT_S
    assert wsgi.POOL_WAIT_S + wsgi.ANSWER_TIMEOUT_S <= 3.0


# --- a server over a model -----------------------------------------------------------------------
@pytest.fixture
def key(system: System, tiny_folder: Path) -> str:
    make_served_model(system, tiny_folder)
    return make_key(system)


@pytest.fixture
def server(settings: Settings, key: str) -> Iterator[Gunicorn]:
    with serve_gunicorn(settings, MAX_IN_FLIGHT="2") as server:
        yield server


@pytest.fixture
def impatient_server(settings: Settings, key: str) -> Iterator[Gunicorn]:
    with serve_gunicorn(settings, MAX_IN_FLIGHT="2", BODY_TIMEOUT_S="2") as server:
        yield server


def head(key: str, length: int, path: str = PREDICT) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def read_problem(answer: bytes) -> dict[str, object]:
    first, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in first.lower(), answer
    problem: dict[str, object] = json.loads(body)
    assert f" {problem['status']} ".encode() in first.splitlines()[0]
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.mark.usefixtures("redis_url")
def test_what_gunicorn_itself_refuses_is_a_problem_too(server: Gunicorn) -> None:
    host = b"Host: x\r\n\r\n"
    for sent, status in {
        b"nonsense\r\n\r\n": 400,
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n" + host: 414,
        b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n" + host: 431,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 70 + host: 431,
        b"GET / HTTP/1.1\r\nA B: c\r\n" + host: 400,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: strange\r\n" + host: 501,
        b"GET / HTTP/9.9\r\n" + host: 400,
    }.items():
        assert read_problem(server.send(sent))["status"] == status, sent[:40]


def test_over_the_limit_the_answer_is_503_before_the_body_is_read_and_watchers_are_still_answered(
    server: Gunicorn, key: str
) -> None:
    picture = make_jpeg()
    held = [server.connect() for _ in range(2)]
    for connection in held:
        connection.connect()
        connection.sock.sendall(head(key, len(picture)) + picture[:10])  # in flight, being read
    wait_until(lambda: b"backtalk_requests_in_flight 2.0" in server.ask("GET", "/metrics").body)
    body = b"\xff\xd8" + bytes(20 * 2**20)  # sent whole before the answer is looked for
    refused = server.ask("POST", PREDICT, body=body, headers={"Authorization": f"Bearer {key}"})
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert json.loads(refused.body)["type"] == "urn:backtalk:problem:overloaded"
    assert server.ask("GET", "/livez").status == 200
    assert server.ask("GET", "/readyz").status == 200
    for connection in held:
        connection.sock.sendall(picture[10:])
        assert b" 200 " in read_answer(connection).splitlines()[0]
    assert server.ask("POST", PREDICT, body=picture, headers={"Authorization": f"Bearer {key}"}).status == 200


def wait_until(holds) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def test_a_body_that_trickles_in_is_ended_with_408_and_leaves_the_turns_to_others(
    impatient_server: Gunicorn, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    raw = impatient_server.connect()
    raw.connect()
    raw.sock.sendall(head(key, 1000) + b"\xff")
    assert impatient_server.ask("GET", "/v1/models", headers=headers).status == 200
    assert read_problem(read_answer(raw))["status"] == 408


def read_answer(connection: HTTPConnection) -> bytes:
    answer = b""
    while b"}" not in answer:
        part = connection.sock.recv(65536)
        assert part, answer
        answer += part
    connection.close()
    return answer


def test_a_body_that_its_client_breaks_off_is_no_body(server: Gunicorn, key: str) -> None:
    raw = server.connect()
    raw.connect()
    raw.sock.sendall(head(key, 1000) + make_jpeg()[:500])
    raw.sock.shutdown(socket.SHUT_WR)
    problem = read_problem(read_answer(raw))
    assert problem["status"] == 400
    assert "500 of 1000" in str(problem["detail"])


@pytest.mark.slow
def test_a_head_that_never_ends_is_ended(settings: Settings, key: str) -> None:
    with serve_gunicorn(settings) as server:  # gunicorn itself would wait for ever
        assert server.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n") == b""


# --- the end -------------------------------------------------------------------------------------
class Load:
    """Callers who note what they were answered; some keep their connection, some connect anew each time."""

    def __init__(self, server: Gunicorn, key: str) -> None:
        self.answered: list[int] = []
        self.failed: list[str] = []
        self._server, self._key, self._picture = server, key, make_jpeg()
        self.threads = [threading.Thread(target=self._call, args=(keeps,)) for keeps in (True, False) * 4]
        for thread in self.threads:
            thread.start()

    def _call(self, keeps: bool) -> None:
        connection = self._server.connect()
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                return  # nobody listens any more: nothing was asked
            try:
                headers = {"Authorization": f"Bearer {self._key}"}
                headers |= {} if keeps else {"Connection": "close"}
                connection.request("POST", PREDICT, body=self._picture, headers=headers)
                response = connection.getresponse()
                response.read()
                self.answered.append(response.status)
            except (OSError, HTTPException) as error:
                self.failed.append(repr(error))
                return

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def test_a_server_that_is_asked_to_stop_under_load_fails_no_request(settings: Settings, key: str) -> None:
    with serve_gunicorn(settings) as server:
        load = Load(server, key)
        wait_until(lambda: len(load.answered) > 50)
        server.ask_to_stop()
        load.join()
        assert server.process.wait(30) == 0
    assert load.failed == []
    assert set(load.answered) == {200}
