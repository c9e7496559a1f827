"""The real server over TLS: whom it speaks with, what it says, and that nobody can hold it up there."""

import json
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trustme

from backtalk.config import Settings
from backtalk.system import System
from services import probe
from tests import showroom
from tests.certificates import issue, trust
from tests.clients import make_key
from tests.gunicorns import Gunicorn, serve_gunicorn
from tests.served import make_jpeg, make_served_model

ALERT = b"\x15"
PREDICT = "/v1/models/animals:predict"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(settings: Settings, tmp_path: Path, authority: trustme.CA) -> Iterator[Gunicorn]:
    pair = issue(tmp_path, authority)
    with serve_gunicorn(settings, tls=trust(authority), BODY_TIMEOUT_S="1", **pair.settings()) as started:
        yield started


def test_it_speaks_tls_1_2_or_newer_says_so_for_a_year_and_nothing_else(
    server: Gunicorn, settings: Settings, tmp_path: Path
) -> None:
    response = server.ask("GET", "/livez")
    assert response.status == 200
    assert response.getheader("Strict-Transport-Security") == "max-age=31536000"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", server.port)) as raw:
        old.wrap_socket(raw)
    assert not server.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP")  # not encrypted
    files = {"tls_cert": tmp_path / "server.pem", "tls_key": tmp_path / "server.key"}
    assert probe.ask("/readyz", settings.model_copy(update={"api_port": server.port} | files)) == 200


def test_a_person_signs_in_and_the_cookie_is_bound_to_the_host(server: Gunicorn, system: System) -> None:
    showroom.add_person(system)
    form = urlencode({"name": "ada", "password": showroom.PASSWORD})
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": f"https://127.0.0.1:{server.port}",
    }
    response = server.ask("POST", "/sign-in", body=form, headers=headers)
    assert response.status == 303
    cookies = response.headers.get_all("Set-Cookie")
    assert [cookie.split("=")[0] for cookie in cookies] == ["__Host-backtalk", "__Host-backtalk-browser"]
    assert all("; Secure" in cookie for cookie in cookies)
    page = server.ask("GET", "/", headers={"Cookie": cookies[0].split(";")[0]})
    assert page.status == 200
    assert page.getheader("Strict-Transport-Security")
    assert b"Sign out" in body(page)


def body(response: HTTPResponse) -> bytes:
    return response.body  # type: ignore[attr-defined, no-any-return]


def test_a_slow_body_is_ended_and_a_stopping_server_answers_whom_it_let_in(
    server: Gunicorn, system: System, tiny_folder: Path
) -> None:
    make_served_model(system, tiny_folder)
    headers = {"Authorization": f"Bearer {make_key(system)}"}
    picture = make_jpeg()
    assert server.ask("POST", PREDICT, body=picture, headers=headers).status == 200
    half, slow = server.connect(), server.connect()
    for connection in (half, slow):
        connection.putrequest("POST", PREDICT)
        connection.putheader("Authorization", headers["Authorization"])
        connection.putheader("Content-Length", str(len(picture)))
        connection.endheaders(picture[:100])
    late = slow.getresponse()
    assert (late.status, json.loads(late.read())["type"]) == (408, "urn:backtalk:problem:request-timeout")
    assert half.getresponse().status == 408
    kept = server.connect()
    kept.request("POST", PREDICT, body=picture, headers=headers)
    kept.getresponse().read()
    server.ask_to_stop()
    time.sleep(0.3)
    kept.request("POST", PREDICT, body=picture, headers=headers)
    last = kept.getresponse()
    assert (last.status, last.getheader("Connection")) == (200, "close")
    last.read()
    assert server.process.wait(30) == 0


def test_a_renewed_certificate_is_in_use_without_a_restart_and_a_bad_one_never(
    server: Gunicorn, tmp_path: Path
) -> None:
    other = trustme.CA()
    issue(tmp_path, other)
    with pytest.raises(ssl.SSLCertVerificationError):
        server.ask("GET", "/livez")
    server.tls = trust(other)
    assert server.ask("GET", "/livez").status == 200
    (tmp_path / "server.pem").write_text("half of a file")
    assert server.ask("GET", "/livez").status == 200


@pytest.mark.slow
def test_whoever_stops_in_the_middle_of_the_handshake_is_let_go(server: Gunicorn) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(bytes.fromhex("160301020001"))  # the beginning of a ClientHello
        began = time.monotonic()
        assert server.ask("GET", "/livez").status == 200
        assert raw.recv(4096)[:1] in {b"", ALERT}
        assert time.monotonic() - began < 29


def test_a_bad_pair_keeps_the_server_from_starting(settings: Settings, tmp_path: Path) -> None:
    pair = issue(tmp_path, trustme.CA())
    pair.key.write_text("no key")
    with (
        pytest.raises(AssertionError, match="ended at its start"),
        serve_gunicorn(settings, tls=ssl.create_default_context(), **pair.settings()),
    ):
        pass
