"""Downloads of versions, a few at a time: each holds a thread for as long as the other end takes."""

from threading import BoundedSemaphore

from flask import Response, request, send_file

from backtalk.devicefiles import Ready
from backtalk.errors import Unavailable

MOST_DOWNLOADS = 2
_going = BoundedSemaphore(MOST_DOWNLOADS)


def begin(sentence: str) -> None:
    """Take one of the places; `end` gives it back. Raises Unavailable with the sentence: all are taken."""
    if not _going.acquire(blocking=False):
        raise Unavailable(sentence)


def end() -> None:
    _going.release()


def is_wanted(ready: Ready) -> bool:
    """Whether bytes will leave: not for a look (HEAD), and not to somebody who has them already."""
    return request.method == "GET" and not request.if_none_match.contains(ready.sha256)


def send_device_file(ready: Ready, sentence: str) -> Response:
    """As an attachment. Its sum is the ETag, so a device that has it gets 304, and a broken-off one goes on.

    Raises:
        Unavailable: too many downloads are going on.
    """
    begin(sentence)
    try:
        response = send_file(
            ready.path,
            mimetype="application/octet-stream",
            as_attachment=True,
            download_name=ready.name,
            conditional=True,
            etag=ready.sha256,
            last_modified=None,
            max_age=None,
        )
    except BaseException:
        end()
        raise
    response.direct_passthrough = False  # which would leave out `call_on_close`
    response.call_on_close(end)
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response
