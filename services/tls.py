"""TLS as this server speaks it, with the certificate that lies on the disk now."""

import logging
import ssl
from pathlib import Path
from threading import Lock

from backtalk import certificates

_log = logging.getLogger(__name__)


class Contexts:
    """One context for all connections, made anew when one of the files is another: certificates are renewed
    every few weeks, and nobody should have to restart for it. A new pair that does not load leaves the one
    before in use. Thread-safe.

    Raises:
        InvalidCertificate: the first pair is not fit for use.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        for warning in certificates.check_pair(certificate, key):
            _log.warning("%s", warning)
        self._stamp = self._look()
        self._context = certificates.make_context(certificate, key)
        self._lock = Lock()

    def get(self) -> ssl.SSLContext:
        """For the next connection."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._stamp = stamp  # tried once, whatever comes of it
                    self._context = certificates.make_context(*self._files)
                    _log.info("a new certificate is in use")
            except OSError as error:
                _log.error("the new certificate is of no use, the one before stays: %s", error)
        return self._context

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = [path.stat() for path in self._files]
        return tuple((each.st_mtime_ns, each.st_size) for each in found)
