"""Draws by keyed hash: repeatable for us, not to be foretold by anybody without the model's salt. Pure."""

import hashlib
import hmac


def draw(salt: bytes, purpose: str, subject: str) -> float:
    """A number in [0, 1) that depends on nothing but these three (HMAC-SHA256, RFC 2104)."""
    digest = hmac.digest(salt, f"{purpose}\x00{subject}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:7]) / 2**56
