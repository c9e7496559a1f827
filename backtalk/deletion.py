"""Deletes an image because somebody asked: at once, whatever was said of it."""

import logging

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.callers import Caller
from backtalk.db import parse_id
from backtalk.errors import ImageNotFound, Unavailable
from backtalk.removals import remove_files
from backtalk.system import System
from backtalk.tables import Image, ImageRemoval
from backtalk.tombstones import bury_images, lock_images

_MOST_FILES = 100
_log = logging.getLogger(__name__)


def delete_image(system: System, *, image_id: str, caller: Caller) -> None:
    """Pixels, hashes and embeddings go; rows stay as tombstones, and samples are retracted.

    Doing it again changes nothing. Copies in what versions are verified on go with the next upkeep.

    Raises:
        ImageNotFound: no image ever had that id.
        Unavailable: the rows are changed, and the disk did not let the file go. Upkeep tries again.
    """
    with system.db.transaction() as session:
        image = _get_image(session, image_id)
        if lock_images(session, [image.id]):
            bury_images(session, [image.id])
            audit.record(session, caller.actor, "image.delete", f"image:{image.id}")
    with system.db.reading() as session:
        waiting = select(ImageRemoval.pixels_sha256).order_by(ImageRemoval.asked_at.desc()).limit(_MOST_FILES)
        try:
            remove_files(session, system.images, session.scalars(waiting).all())
        except OSError as error:
            _log.error("a deleted image's file could not be removed: %s", error)
            raise Unavailable(
                "The image is deleted, but its file could not be removed just now; ask again."
            ) from error


def _get_image(session: Session, image_id: str) -> Image:
    key = parse_id(image_id)
    image = session.get(Image, key) if key else None
    if image is None:
        raise ImageNotFound(f"There is no image {image_id!r}.")
    return image
