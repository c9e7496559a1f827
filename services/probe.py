"""Asks the server of this machine how it is, for health checks: `python -m services.probe /readyz`."""

import ssl
import sys
import urllib.request

from backtalk.config import Settings

TIMEOUT_S = 4.0


def ask(path: str, settings: Settings) -> int:
    """The status of the answer. Raises OSError where none is fit for use: no answer, or not a good one."""
    scheme = "http" if settings.tls_cert is None else "https"
    ours = ssl.create_default_context()
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE  # it names the machine, not the loopback
    address = f"{scheme}://127.0.0.1:{settings.api_port}{path}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S, context=ours) as answer:  # noqa: S310  # our own
        return int(answer.status)


if __name__ == "__main__":
    ask(sys.argv[1], Settings.load())
