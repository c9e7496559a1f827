"""The one way in which a picture leaves: re-encoded, under headers that let it be nothing but a picture."""

from flask import Response

from backtalk import images
from backtalk.errors import ImageNotFound
from backtalk.tables import Image
from services.backend import get_backend

PICTURE_SIDE = 1024  # pixels: enough for the stage on most screens, 100 to 300 kB as JPEG
TILE_SIDE = 320  # of those in the grid; no other sizes, so that nobody fills caches with them

#: What a stranger sent cannot act as a page, be guessed to be another type, or be drawn in by another site.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A deleted picture is gone from browsers soon, too.
    "Cache-Control": "private, max-age=600",
}


def answer_picture(image: Image, side: int = PICTURE_SIDE) -> Response:
    """A fresh JPEG of `side` pixels a side at most; never the file that was sent in.

    Raises:
        ImageNotFound: its pixels were deleted, or never kept.
    """
    if image.store_key is None or image.deleted_at is not None:
        raise ImageNotFound("The picture was deleted, or its policy keeps no pixels.")
    system = get_backend().system
    data = system.images.get(image.store_key)
    found = images.inspect(
        data, max_bytes=len(data), max_pixels=images.MAX_STORED_PIXELS, orientation=image.orientation
    )
    with system.turns.take(found.pixel_count):
        shown = images.thumbnail(found.decode().pixels, side)
    response = Response(shown, mimetype="image/jpeg")
    response.headers.update(HEADERS)
    response.headers["Content-Disposition"] = f'inline; filename="{image.id}.jpg"'
    return response
