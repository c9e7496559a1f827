"""Which connections the client keeps, and what it does when the server has closed one meanwhile."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from backtalk import client as client_module
from backtalk.client import Client, Item, Unreachable
from tests.certificates import issue, trust
from tests.faults.proxy import Proxy

IDLE_S = 0.2
ITEM = Item(
    item="i1",
    kind="audit",
    prediction="p1",
    image="x1",
    image_url="/v1/review/i1/image",
    predicted="cat",
    scores=[1.0],
    reported=None,
    reporter=None,
    note=None,
    mark=None,
    etag='"1"',
    lease_until="",
)
ANSWER = {"id": "c1", "state": "pending", "item": "i1", "action": "approve", "label": "cat", "final": True}


class Handler(BaseHTTPRequestHandler):
    """Answers every call, keeps the connection, and closes it when nothing comes for a while."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: "Server"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {self.path}")
        data = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815  # its base class looks for that name

    def finish(self) -> None:
        super().finish()
        self.server.closed.set()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str] = []
        self.connections = 0
        self.closed = threading.Event()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_until_an_idle_connection_is_closed(self) -> None:
        self.closed.clear()
        assert self.closed.wait(10)
        threading.Event().wait(0.05)  # until the client's side has heard of it


@pytest.fixture(params=["http", "https"])
def reached(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Client]]:
    """A server, and a client of it that has no tries to spare."""
    theirs = ours = None
    if request.param == "https":
        authority = trustme.CA()
        pair = issue(tmp_path, authority)
        theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        theirs.load_cert_chain(pair.certificate, pair.key)
        ours = trust(authority)
    server = Server(theirs)
    with Client(
        f"{request.param}://127.0.0.1:{server.server_port}", "bt_x", retries=0, context=ours
    ) as client:
        yield server, client
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _: pytest.fail("it waited"))


def test_calls_share_a_connection_while_it_is_open(reached: tuple[Server, Client]) -> None:
    server, client = reached
    for _ in range(3):
        client.model("animals")
    assert (len(server.seen), server.connections) == (3, 1)


@pytest.mark.parametrize(
    "call",
    [lambda client: client.model("animals"), lambda client: client.correct("p1", "dog")],
    ids=["get", "post"],
)
def test_a_connection_that_was_idle_for_too_long_costs_no_try(
    reached: tuple[Server, Client], call: Callable[[Client], object]
) -> None:
    server, client = reached
    client.model("animals")
    server.wait_until_an_idle_connection_is_closed()
    call(client)
    assert (len(server.seen), server.connections) == (2, 2)


def test_a_decision_has_a_connection_of_its_own(reached: tuple[Server, Client]) -> None:
    """Sent on one that was kept, it could not be told whether it was done."""
    server, client = reached
    client.model("animals")
    client.decide(ITEM, "approve")
    assert server.connections == 2
    server.wait_until_an_idle_connection_is_closed()
    client.decide(ITEM, "approve")
    assert (len(server.seen), server.connections) == (3, 3)


def test_a_kept_connection_that_is_cut_is_made_anew_and_one_that_is_silent_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Handler, "timeout", 30.0)
    server = Server()
    with Proxy(("127.0.0.1", server.server_port)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        with Client(address, "bt_x", retries=0, timeout_s=0.5) as client:
            client.model("animals")
            proxy.cut()
            client.model("animals")
            proxy.swallow_answers()
            with pytest.raises(Unreachable):
                client.model("animals")
            assert len(server.seen) == 3
            proxy.heal()
            client.model("animals")
            proxy.refuse()
            with pytest.raises(Unreachable):
                client.model("animals")
    assert len(server.seen) == 4
