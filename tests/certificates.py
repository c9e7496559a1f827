"""Certificates that a test's own authority signs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path

    def settings(self) -> dict[str, str]:
        """As `serve_gunicorn` takes them."""
        return {"TLS_CERT": str(self.certificate), "TLS_KEY": str(self.key)}


def issue(folder: Path, authority: trustme.CA, **values: Any) -> Pair:
    """For this machine's loopback, written to `folder`, in place of what was there."""
    made = authority.issue_cert("localhost", "127.0.0.1", **values)
    pair = Pair(folder / "server.pem", folder / "server.key")
    pair.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(made.private_key_pem.bytes())
    return pair


def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A client that believes this authority alone."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
