"""Behind a proxy: who calls, and over what, is what a trusted one says, never what a caller says himself."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trustme
from flask.testing import FlaskClient

from backtalk import bootstrap
from backtalk.config import Settings
from backtalk.servers import free_port
from backtalk.system import System
from services.proxies import TrustedProxies
from services.wsgi import create_app
from tests import showroom
from tests.certificates import issue, trust
from tests.gunicorns import serve_gunicorn

FRONT = Path(__file__).parents[2] / "deploy" / "tls" / "nginx.conf"
PROXY = "10.213.7.2"


@pytest.mark.parametrize(
    ("peer", "said", "caller"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # the first is the caller's own invention
        (PROXY, "203.0.113.9, 10.213.7.1", "203.0.113.9"),  # through two of ours
        (PROXY, "2001:db8::7", "2001:db8::7"),
        (PROXY, "somebody", PROXY),
        (PROXY, "", PROXY),
        (PROXY, None, PROXY),
        ("203.0.113.9", "127.0.0.1", "203.0.113.9"),
        ("", "127.0.0.1", ""),  # a Unix socket
    ],
)
def test_the_caller_is_the_last_that_is_no_proxy_of_ours(peer: str, said: str | None, caller: str) -> None:
    seen = {}

    def app(environ, start_response):  # type: ignore[no-untyped-def]
        seen.update(environ)
        return []

    networks = Settings(trusted_proxies="10.213.7.0/29, ::1").trusted_networks
    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_X_FORWARDED_PROTO": "https"}
    TrustedProxies(app, networks)(environ | ({} if said is None else {"HTTP_X_FORWARDED_FOR": said}), None)
    assert seen["REMOTE_ADDR"] == caller
    assert seen["wsgi.url_scheme"] == ("https" if peer == PROXY else "http")


def test_a_bad_proxy_is_a_bad_setting() -> None:
    with pytest.raises(ValueError, match="BACKTALK_TRUSTED_PROXIES"):
        Settings.load(trusted_proxies="the-front")


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    built = bootstrap.build(settings.model_copy(update={"trusted_proxies": PROXY}), pool_size=5)
    showroom.add_person(built)
    yield create_app(system=built).test_client()
    built.close()


@pytest.mark.parametrize(("peer", "secure"), [(PROXY, True), ("203.0.113.9", False)])
def test_https_at_the_front_gives_cookies_that_go_over_nothing_else(
    client: FlaskClient, peer: str, secure: bool
) -> None:
    how = {"environ_base": {"REMOTE_ADDR": peer}, "headers": {"X-Forwarded-Proto": "https"}}
    form = {"name": "ada", "password": showroom.PASSWORD}
    answer = client.post("/sign-in", data=form, **how)
    assert answer.status_code == 303
    assert answer.headers["Set-Cookie"].startswith("__Host-backtalk=" if secure else "backtalk=")
    assert ("Strict-Transport-Security" in answer.headers) == secure


# --- the front of docker-compose.yml ----------------------------------------------------------------
@contextmanager
def run_front(folder: Path, api_port: int, authority: trustme.CA) -> Iterator[tuple[int, int]]:
    """Nginx with the file of the compose profile; its ports for HTTPS and HTTP."""
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("no nginx on this machine")
    pair = issue(folder, authority)
    https, http = free_port(), free_port()
    said = re.sub(r"/tmp/(\w)", rf"{folder}/\1", FRONT.read_text())
    said = said.replace("api:8000", f"127.0.0.1:{api_port}")
    said = said.replace("listen 8443", f"listen {https}").replace("listen 8080", f"listen {http}")
    said = said.replace("/etc/nginx/tls/certs/server.pem", str(pair.certificate))
    said = said.replace("/etc/nginx/tls/certs/server.key", str(pair.key))
    (folder / "nginx.conf").write_text(said)
    process = subprocess.Popen([nginx, "-c", folder / "nginx.conf", "-g", "daemon off;"])
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as raw:
                if raw.connect_ex(("127.0.0.1", https)) == 0:
                    break
            time.sleep(0.05)
        yield https, http
    finally:
        process.terminate()
        process.wait(20)


def test_the_front_speaks_tls_leads_there_and_is_believed(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    authority = trustme.CA()
    showroom.add_person(system)
    with (
        serve_gunicorn(settings, TRUSTED_PROXIES="127.0.0.1") as server,
        run_front(tmp_path, server.port, authority) as (https, http),
    ):
        plain = HTTPConnection("127.0.0.1", http, timeout=20)
        plain.request("POST", "/v1/models?limit=1", headers={"Host": "backtalk.example"})
        led = plain.getresponse()
        assert (led.status, led.getheader("Location")) == (308, "https://backtalk.example/v1/models?limit=1")
        front = HTTPSConnection("127.0.0.1", https, timeout=20, context=trust(authority))
        form = urlencode({"name": "ada", "password": showroom.PASSWORD})
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"https://127.0.0.1:{https}",
            "X-Forwarded-For": "198.51.100.1",
        }
        front.request("POST", "/sign-in", body=form, headers=headers)
        answer = front.getresponse()
        answer.read()
        assert (answer.status, answer.getheader("Strict-Transport-Security")) == (303, "max-age=31536000")
        assert answer.headers["Set-Cookie"].startswith("__Host-backtalk=")
        front.request("POST", "/v1/models/animals:predict", body=b"x" * (28 * 2**20))
        refused = front.getresponse()
        assert (refused.status, refused.getheader("Content-Type")) == (413, "application/problem+json")
        assert b'"status":413' in refused.read()
