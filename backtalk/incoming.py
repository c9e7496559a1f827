"""Pictures come in: within the limits, decoded once, and kept where the policy says so."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backtalk import images
from backtalk.errors import InvalidInput, Unavailable
from backtalk.loading import ServedVersion
from backtalk.system import System

MAX_BATCH = 64  # pictures in one call
PICTURES_OF_FULL_SIZE = 4  # as many pixels as so many of the largest may come in one call
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """One picture taken in: what the backbone reads, and what its row will say."""

    input: NDArray[np.uint8]  # (S, S, 3)
    pixels_sha256: str
    perceptual_hash: int
    width: int
    height: int
    orientation: int
    store_key: str | None
    kept: bytes  # the file without its metadata


class Intake:
    """Takes pictures in for the versions in service. Thread-safe."""

    def __init__(self, system: System) -> None:
        self._settings = system.settings
        self._images = system.images
        self._turns = system.turns

    def take_in(self, served: ServedVersion, pictures: Sequence[bytes]) -> list[Taken]:
        """Each picture within the limits, and all of them together within a few times those of one.

        Raises:
            InvalidInput: none, or more than `MAX_BATCH`.
            RefusedImage: one of them is not taken in; then the call is to be refused.
            Unavailable: one of them could not be kept.
        """
        if not 0 < len(pictures) <= MAX_BATCH:
            raise InvalidInput(f"Send between 1 and {MAX_BATCH} pictures in one call, not {len(pictures)}.")
        most = self._settings.max_pixels
        room, taken = PICTURES_OF_FULL_SIZE * most, []
        for data in pictures:
            found = self._inspect(data, min(most, room))
            room -= found.pixel_count
            with self._turns.take(found.pixel_count):
                taken.append(self._take_in(served, found.decode()))
        return taken

    def look_again(self, taken: Sequence[Taken]) -> None:
        """A deletion of the same pixels may have taken the file before our row said that it is wanted."""
        for picture in taken:
            if picture.store_key is not None and not self._images.has(picture.store_key):
                self._keep(picture.pixels_sha256, picture.kept)

    def digest(self, data: bytes) -> str:
        """Of the pixels; nothing is kept. Raises RefusedImage."""
        found = self._inspect(data, self._settings.max_pixels)
        with self._turns.take(found.pixel_count):
            return images.pixels_digest(found.decode().pixels)

    def _inspect(self, data: bytes, max_pixels: int) -> images.Undecoded:
        return images.inspect(data, max_bytes=self._settings.max_image_bytes, max_pixels=max_pixels)

    def _take_in(self, served: ServedVersion, picture: images.Picture) -> Taken:
        digest = images.pixels_digest(picture.pixels)
        key = None
        if served.wanted.policy.keep_images != "none":  # `feedback` too: nobody has spoken yet
            key = self._keep(digest, picture.data)
        return Taken(
            input=images.to_input(picture.pixels, served.backbone.input_size),
            pixels_sha256=digest,
            perceptual_hash=images.perceptual_hash(picture.pixels),
            width=picture.width,
            height=picture.height,
            orientation=picture.orientation,
            store_key=key,
            kept=picture.data,
        )

    def _keep(self, digest: str, data: bytes) -> str:
        try:
            return self._images.put(digest, data)
        except OSError as error:
            _log.error("an image could not be kept: %s", error)
            raise Unavailable("The image could not be kept, so it is not answered. Try again.") from error
