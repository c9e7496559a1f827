"""A certificate and its key, looked at before anything listens: what is wrong is said in a sentence."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backtalk.errors import InvalidCertificate

ENDS_SOON = timedelta(days=14)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
_MARK = "-----BEGIN CERTIFICATE-----"


def check_pair(certificate: Path, key: Path, now: datetime | None = None) -> list[str]:
    """What deserves a look though it works: a key that others can read, an end that is near.

    Args:
        certificate: PEM, the server's own first, then those between it and a root.
        key: PEM, without a password.

    Raises:
        InvalidCertificate: a file cannot be read or is none, they do not belong together, or the time of the
            certificate is over or has not come.
    """
    text = _read(certificate, "certificate")
    _read(key, "key")
    try:
        make_context(certificate, key)
    except ssl.SSLError as error:
        raise InvalidCertificate(_explain(error, certificate, key)) from None
    begins, ends = _read_validity(ssl.PEM_cert_to_DER_cert(_find_first(text)))
    now = now or datetime.now(UTC)
    if now >= ends:
        raise InvalidCertificate(f"The certificate in {certificate} ended on {ends:%Y-%m-%d %H:%M} UTC.")
    if now < begins:
        raise InvalidCertificate(f"The certificate in {certificate} begins on {begins:%Y-%m-%d %H:%M} UTC.")
    warnings = []
    if key.stat().st_mode & 0o077:
        warnings.append(f"The key in {key} can be read by others on this machine: chmod 600 it.")
    if ends - now < ENDS_SOON:
        warnings.append(f"The certificate in {certificate} ends on {ends:%Y-%m-%d}.")
    return warnings


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a server: TLS 1.2 or newer. Raises OSError, of which ssl.SSLError is a kind."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Who breaks off, or is broken off for being slow, can still be answered. What was cut short HTTP itself
    # finds out: fewer bytes came than were announced.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    # An empty password: OpenSSL would otherwise ask for one at the terminal.
    context.load_cert_chain(certificate, key, password="")
    return context


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise InvalidCertificate(f"The TLS {what} {path} cannot be read: {error.strerror}.") from None


def _explain(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"The key in {key} is not that of the certificate in {certificate}."
    said = error.reason.replace("_", " ").lower() if error.reason else str(error)
    return f"{certificate} and {key} are no certificate and key in PEM, without a password: {said}."


def _find_first(text: str) -> str:
    """The server's own certificate; what stands around it may say anything."""
    begin = text.index(_MARK)
    end = text.index("-----END CERTIFICATE-----", begin)
    return f"{text[begin:end]}-----END CERTIFICATE-----"


def _read_validity(certificate: bytes) -> tuple[datetime, datetime]:
    """Begin and end, from DER (RFC 5280, section 4.1). Python's own reader takes trusted ones alone."""
    _, outer, _ = _take(certificate)
    _, signed, _ = _take(outer)
    kind, _, rest = _take(signed)
    if kind == _VERSION:
        _, _, rest = _take(rest)  # the serial number
    for _ in range(2):  # algorithm, issuer
        _, _, rest = _take(rest)
    kind, validity, _ = _take(rest)
    assert kind == _SEQUENCE
    first, begins, rest = _take(validity)
    second, ends, _ = _take(rest)
    return _read_time(first, begins), _read_time(second, ends)


def _take(data: bytes) -> tuple[int, bytes, bytes]:
    """The first value: its kind and content, and what follows it."""
    kind, size, start = data[0], data[1], 2
    if size & 0x80:  # so many bytes of length follow
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    return kind, data[start : start + size], data[start + size :]


def _read_time(kind: int, text: bytes) -> datetime:
    said = text.decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year: 1950 to 2049
        said = ("19" if said[:2] >= "50" else "20") + said
    return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
