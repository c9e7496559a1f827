"""Who calls, and over what, where a proxy of ours stands in between."""

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any

from backtalk.config import Network

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class TrustedProxies:
    """WSGI: believes `X-Forwarded-For` and `X-Forwarded-Proto` of those proxies, and of nobody else.

    The caller is the last address in the list that is not itself one of the proxies: what stands before it he
    may have written himself.
    """

    def __init__(self, app: App, networks: Sequence[Network]) -> None:
        self._app = app
        self._networks = networks

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self._is_ours(environ.get("REMOTE_ADDR", "")):
            self._believe(environ)
        return self._app(environ, start_response)

    def _believe(self, environ: dict[str, Any]) -> None:
        said = [part.strip() for part in environ.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        caller = next((part for part in reversed(said) if not self._is_ours(part)), "")
        if _is_address(caller):
            environ["REMOTE_ADDR"] = caller
        if environ.get("HTTP_X_FORWARDED_PROTO") in {"http", "https"}:
            environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"]

    def _is_ours(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
