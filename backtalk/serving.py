"""Predictions: decode, embed, score, record, answer. One `LiveModels` per API process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backtalk.callers import Caller
from backtalk.db import new_id
from backtalk.draws import draw
from backtalk.incoming import Intake, Taken
from backtalk.live import LiveVersions, ModelState
from backtalk.loading import Loader, ServedVersion
from backtalk.recording import Recordable, record_predictions
from backtalk.system import System


@dataclass(frozen=True, slots=True)
class Predicted:
    id: str
    label: str
    score: float
    scores: list[float]  # float32 values, in the order of the model's labels


@dataclass(frozen=True, slots=True, eq=False)
class PredictedBatch:
    """What one version answered, recorded before it is returned."""

    model: str
    version: int
    generation: int
    predictions: list[Predicted]
    embeddings: NDArray[np.float16]  # (N, D)


class LiveModels:
    """The models that this process serves. Thread-safe; `start` only after the process has forked."""

    def __init__(self, system: System) -> None:
        self._database = system.db
        self._intake = Intake(system)
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
        self,
        model_name: str,
        pictures: Sequence[bytes],
        caller: Caller,
        *,
        pinned: ServedVersion | None = None,
    ) -> PredictedBatch:
        """Answer for each picture (JPEG, PNG or WebP as it came), after recording every answer.

        `pinned` answers, one of `versions.list_held(model_name)`, or else the version in service.

        Raises:
            ModelNotFound, NoVersionInService: nothing can answer.
            RefusedImage: one of the pictures is not taken in; then none is answered.
            Unavailable: they could not be recorded, so none is answered.
        """
        current = self.get_version(model_name)
        served = pinned or current
        taken = self._intake.take_in(served, pictures)
        embeddings = served.backbone.embed(np.stack([picture.input for picture in taken]))
        scores = served.head.scores(embeddings)
        records = [
            _make_record(served, caller.key_id, *answered)
            for answered in zip(taken, embeddings, scores, strict=True)
        ]
        record_predictions(self._database, records)
        self._intake.look_again(taken)
        predictions = [
            Predicted(str(record.prediction_id), record.label, max(record.scores), record.scores)
            for record in records
        ]
        return PredictedBatch(model_name, served.number, current.generation, predictions, embeddings)


def _make_record(
    served: ServedVersion,
    key_id: str | None,
    taken: Taken,
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
