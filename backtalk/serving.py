"""Predictions: decode, embed, score, record, answer. One `LiveModels` per API process."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backtalk import images
from backtalk.callers import Caller
from backtalk.db import new_id
from backtalk.draws import draw
from backtalk.errors import InvalidInput, Unavailable
from backtalk.live import LiveVersions, ModelState
from backtalk.loading import Loader, ServedVersion
from backtalk.recording import Recordable, record_predictions
from backtalk.system import System

MAX_BATCH = 64  # pictures in one call
PICTURES_OF_FULL_SIZE = 4  # as many pixels as so many of the largest may come in one call
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predicted:
    id: str
    label: str
    score: float
    scores: list[float]  # float32 values, in the order of the model's labels


@dataclass(frozen=True, slots=True)
class PredictedBatch:
    """What one version answered, recorded before it is returned."""

    model: str
    version: int
    generation: int
    predictions: list[Predicted]


@dataclass(frozen=True, slots=True)
class _Taken:
    """One picture taken in: what the backbone reads, and what its row will say."""

    input: NDArray[np.uint8]  # (S, S, 3)
    pixels_sha256: str
    perceptual_hash: int
    width: int
    height: int
    orientation: int
    store_key: str | None
    kept: bytes  # the file without its metadata


class LiveModels:
    """The models that this process serves. Thread-safe; `start` only after the process has forked."""

    def __init__(self, system: System) -> None:
        self._settings = system.settings
        self._database = system.db
        self._images = system.images
        self._turns = system.turns
        loader = Loader(system.versions, system.settings.inference_threads)
        self.versions = LiveVersions(system.db, loader, system.settings.poll_s)

    def start(self) -> None:
        self.versions.start()

    def close(self) -> None:
        self.versions.close()

    def get_version(self, model_name: str) -> ServedVersion:
        """See `LiveVersions.get_version`."""
        return self.versions.get_version(model_name)

    def states(self) -> list[ModelState]:
        """See `LiveVersions.states`."""
        return self.versions.states()

    def predict(
        self, model_name: str, pictures: Sequence[bytes], caller: Caller, within: Session | None = None
    ) -> PredictedBatch:
        """Answer for each picture (JPEG, PNG or WebP as it came), after recording every answer.

        With `within` they are recorded in that transaction: what is returned holds once that is committed.

        Raises:
            ModelNotFound, NoVersionInService: nothing can answer.
            RefusedImage: one of the pictures is not taken in; then none is answered.
            Unavailable: they could not be recorded, so none is answered.
        """
        served = self.get_version(model_name)
        if not 0 < len(pictures) <= MAX_BATCH:
            raise InvalidInput(f"Send between 1 and {MAX_BATCH} pictures in one call, not {len(pictures)}.")
        taken = self._take_in_all(served, pictures)
        embeddings = served.backbone.embed(np.stack([picture.input for picture in taken]))
        scores = served.head.scores(embeddings)
        records = [
            _make_record(served, caller.key_id, *answered)
            for answered in zip(taken, embeddings, scores, strict=True)
        ]
        record_predictions(self._database, records, within)
        self._look_again(taken)
        predictions = [
            Predicted(str(record.prediction_id), record.label, max(record.scores), record.scores)
            for record in records
        ]
        return PredictedBatch(model_name, served.number, served.generation, predictions)

    def _take_in_all(self, served: ServedVersion, pictures: Sequence[bytes]) -> list[_Taken]:
        """Each picture within the limits, and all of them together within a few times those of one."""
        most = self._settings.max_pixels
        room, taken = PICTURES_OF_FULL_SIZE * most, []
        for data in pictures:
            found = images.inspect(data, max_bytes=self._settings.max_image_bytes, max_pixels=min(most, room))
            room -= found.pixel_count
            with self._turns.take(found.pixel_count):
                taken.append(self._take_in(served, found.decode()))
        return taken

    def _take_in(self, served: ServedVersion, picture: images.Picture) -> _Taken:
        digest = images.pixels_digest(picture.pixels)
        key = None
        if served.wanted.policy.keep_images != "none":  # `feedback` too: nobody has spoken yet
            key = self._keep(digest, picture.data)
        return _Taken(
            input=images.to_input(picture.pixels, served.backbone.input_size),
            pixels_sha256=digest,
            perceptual_hash=images.perceptual_hash(picture.pixels),
            width=picture.width,
            height=picture.height,
            orientation=picture.orientation,
            store_key=key,
            kept=picture.data,
        )

    def _look_again(self, taken: Sequence[_Taken]) -> None:
        """A deletion of the same pixels may have taken the file before our row said that it is wanted."""
        for picture in taken:
            if picture.store_key is not None and not self._images.has(picture.store_key):
                self._keep(picture.pixels_sha256, picture.kept)

    def _keep(self, digest: str, data: bytes) -> str:
        try:
            return self._images.put(digest, data)
        except OSError as error:
            _log.error("an image could not be kept: %s", error)
            raise Unavailable("The image could not be kept, so it is not answered. Try again.") from error


def _make_record(
    served: ServedVersion,
    key_id: str | None,
    taken: _Taken,
    embedding: NDArray[np.float16],
    scores: NDArray[np.float32],
) -> Recordable:
    wanted, prediction_id = served.wanted, new_id()
    return Recordable(
        prediction_id=prediction_id,
        model_id=wanted.model_id,
        version=served.number,
        label=served.labels[int(scores.argmax())],
        scores=scores.tolist(),
        key_id=key_id,
        audit=draw(wanted.salt, "audit", str(prediction_id)) < wanted.policy.audit_share,
        pixels_sha256=taken.pixels_sha256,
        perceptual_hash=taken.perceptual_hash,
        width=taken.width,
        height=taken.height,
        orientation=taken.orientation,
        store_key=taken.store_key,
        byte_size=len(taken.kept),
        backbone_digest=served.backbone.digest,
        embedding=embedding,
    )
