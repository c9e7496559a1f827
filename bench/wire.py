"""A client that costs next to nothing: real clients take no time of the server's cores, these do."""

import socket
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_S = 30.0


def write_request(target: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST as it goes over the wire (RFC 9112)."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(target).netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Wire:
    """One connection, kept alive. Knows no more of HTTP than our servers speak: answers with a length."""

    def __init__(self, target: str) -> None:
        self._host = urlsplit(target).hostname or ""
        self._port = urlsplit(target).port or 80
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send it; returns the status and the body.

        Raises:
            OSError: the connection broke, or what came is no such answer. The next call opens it anew.
        """
        try:
            return self._ask(request)
        except (OSError, ValueError) as error:
            self.close()
            raise ConnectionError(str(error)) from error

    def _ask(self, request: bytes) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection((self._host, self._port), timeout=TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        received = self._receive()
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = int(next((line[15:] for line in lines if line.startswith(b"content-length:")), b"none"))
        while len(body) < length:
            body += self._receive()
        if b"connection: close" in lines:
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def _receive(self) -> bytes:
        assert self._socket is not None
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError("the server closed the connection")
        return received
