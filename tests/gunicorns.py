"""The API as it runs in production: gunicorn with our settings, in a process of its own."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

import psutil

from backtalk.config import Settings
from backtalk.servers import free_port


@dataclass
class Gunicorn:
    """A server that answers on 127.0.0.1."""

    process: "subprocess.Popen[bytes]"
    port: int
    tls: ssl.SSLContext | None = None  # of a client, where it speaks TLS

    def connect(self, timeout_s: float = 30.0) -> HTTPConnection:
        if self.tls is not None:
            return HTTPSConnection("127.0.0.1", self.port, timeout=timeout_s, context=self.tls)
        return HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(self, method: str, path: str, **values: object) -> HTTPResponse:
        """One call on a connection of its own, its answer read whole (`.body`)."""
        connection = self.connect()
        connection.request(method, path, **values)  # type: ignore[arg-type]
        response = connection.getresponse()
        response.body = response.read()  # type: ignore[attr-defined]
        connection.close()
        return response

    def send(self, data: bytes) -> bytes:
        """Bytes as they are; what comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as raw:
            raw.sendall(data)
            found = b""
            while part := raw.recv(65536):
                found += part
        return found

    def worker(self) -> int:
        (child,) = psutil.Process(self.process.pid).children()
        return int(child.pid)

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serve_gunicorn(
    settings: Settings, *, tls: ssl.SSLContext | None = None, **variables: str
) -> Iterator[Gunicorn]:
    """Gunicorn over the rows and files of `settings`; `variables` are further settings, unprefixed.

    With `tls`, a client's context, they name a certificate that it trusts.
    """
    port = free_port()
    ours = {
        "HOME": str(settings.home),
        "DATABASE_URL": str(settings.database_url),
        "REDIS_URL": str(settings.redis_url),
        "API_PORT": str(port),
        "INFERENCE_THREADS": "2",
        "LOG_LEVEL": "WARNING",
    } | variables
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "python:services.gunicorn_conf"],
        env=os.environ | {f"BACKTALK_{name}": value for name, value in ours.items()},
    )
    server = Gunicorn(process, port, tls)
    try:
        _wait_until_it_listens(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def _wait_until_it_listens(server: Gunicorn) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.process.poll() is None, "gunicorn ended at its start"
        assert time.monotonic() < deadline, "gunicorn did not start"
        try:
            server.ask("GET", "/livez", headers={"Connection": "close"})
            return
        except (OSError, HTTPException):
            pass
        time.sleep(0.05)
