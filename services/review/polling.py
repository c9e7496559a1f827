"""Fragments that ask for themselves again, and that answer only where something has changed."""

import hashlib

from flask import Response, render_template, request
from flask.typing import ResponseReturnValue


def polled(body: str, address: str, every_s: int) -> str:
    """`body` in a box that asks for itself every so often, or never for 0."""
    seen = hashlib.sha256(body.encode()).hexdigest()[:16]
    return render_template("pages/polled.html", body=body, address=f"{address}?seen={seen}", every_s=every_s)


def answer_poll(body: str, every_s: int) -> ResponseReturnValue:
    """The box anew, or 204 where the page shows just that already: nobody loses focus for nothing."""
    drawn = polled(body, request.path, every_s)
    if f"?seen={request.args.get('seen')}" in drawn and every_s:
        return Response(status=204)
    return drawn
