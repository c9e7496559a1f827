"""Predictions: decode, embed, score, record, answer. One `LiveModels` per API process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.db import new_id
from backtalk.draws import draw
from backtalk.errors import ClientRefTaken, InvalidInput, UnknownLabel, UnknownVersion
from backtalk.incoming import Intake, Taken
from backtalk.live import LiveVersions, ModelState
from backtalk.loading import Loader, ServedVersion
from backtalk.recording import Recordable, record_predictions
from backtalk.system import System
from backtalk.tables import Image, Prediction, Version

#: A device with eight bits to a score is off by half a step for each label.
SCORES_TOLERANCE = 0.02


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


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a device says that it predicted."""

    label: str
    version: int | None = None  # none: the one that is live now
    scores: list[float] | None = None  # in the order of the model's labels
    client_ref: str | None = None  # what it calls the prediction: sent twice, it is recorded once


@dataclass(frozen=True, slots=True)
class Recorded:
    id: str
    version: int
    label: str
    created: bool  # false: it was there already
    generation: int


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
        within: Session | None = None,
    ) -> PredictedBatch:
        """Answer for each picture (JPEG, PNG or WebP as it came), after recording every answer.

        `pinned` answers, one of `versions.list_held(model_name)`, or else the version in service. With
        `within` they are recorded in that transaction: what is returned holds once that is committed.

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
        record_predictions(self._database, records, within)
        self._intake.look_again(taken)
        predictions = [
            Predicted(str(record.prediction_id), record.label, max(record.scores), record.scores)
            for record in records
        ]
        return PredictedBatch(model_name, served.number, current.generation, predictions, embeddings)

    def record(self, model_name: str, picture: bytes, said: Elsewhere, caller: Caller) -> Recorded:
        """Write down what a device predicted, so that it can be corrected, audited and learned from.

        Raises:
            ModelNotFound, NoVersionInService
            UnknownLabel, UnknownVersion, InvalidInput: not of this model; scores that do not fit its labels.
            RefusedImage: the picture is not taken in.
            ClientRefTaken: the key has sent something else under that reference.
            Unavailable: it could not be recorded.
        """
        served = self.get_version(model_name)
        _check_said(served, said)
        if said.version is not None:
            self._check_version(served, said.version)
        known = self._find_known(served, picture, said, caller)
        if known is not None:
            return known
        (taken,) = self._intake.take_in(served, [picture])
        record = _make_elsewhere(served, caller, said, taken, served.backbone.embed(taken.input[None])[0])
        try:
            record_predictions(self._database, [record])
        except ClientRefTaken:  # in this very moment, by a repeat
            known = self._find_known(served, picture, said, caller)
            if known is None:
                raise
            return known
        self._intake.look_again([taken])
        return Recorded(str(record.prediction_id), record.version, record.label, True, served.generation)

    def _check_version(self, served: ServedVersion, number: int) -> None:
        wanted = (Version.model_id == served.wanted.model_id, Version.number == number)
        with self._database.reading() as session:
            if number >= 2**63 or session.scalar(select(Version.id).where(*wanted)) is None:
                raise UnknownVersion(f"{served.wanted.name} has no version {number}.")

    def _find_known(
        self, served: ServedVersion, picture: bytes, said: Elsewhere, caller: Caller
    ) -> Recorded | None:
        if said.client_ref is None:
            return None
        same = (Prediction.key_id == caller.key_id, Prediction.client_ref == said.client_ref)
        with self._database.reading() as session:
            found = session.execute(
                select(Prediction, Image.pixels_sha256).join(Image).where(*same)
            ).one_or_none()
        if found is None:
            return None
        row, digest = found
        told = (row.model_id, row.label, row.version, list(map(np.float32, row.scores)))
        now = (
            served.wanted.model_id,
            said.label,
            said.version or row.version,
            list(map(np.float32, said.scores or [])),
        )
        if told != now or digest not in {None, self._intake.digest(picture)}:
            raise ClientRefTaken(
                f"This key has sent another prediction with the `client_ref` {said.client_ref!r}.",
                prediction=str(row.id),
            )
        return Recorded(str(row.id), row.version, row.label, False, served.generation)


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


def _check_said(served: ServedVersion, said: Elsewhere) -> None:
    labels = list(served.labels)
    if said.label not in labels:
        raise UnknownLabel(
            f"{served.wanted.name} has no label {said.label!r}. Use one of its labels.", labels=labels
        )
    if said.scores is None:
        return
    if len(said.scores) != len(labels):
        raise InvalidInput(
            f"`scores` has {len(said.scores)} numbers for {len(labels)} labels.", labels=labels
        )
    inside = all(0 <= score <= 1 for score in said.scores)  # false of what is no number, too
    if not inside or abs(sum(said.scores) - 1) > SCORES_TOLERANCE:
        raise InvalidInput(f"`scores` must be 0 to 1 and add up to 1, within {SCORES_TOLERANCE}.")


def _make_elsewhere(
    served: ServedVersion, caller: Caller, said: Elsewhere, taken: Taken, embedding: NDArray[np.float16]
) -> Recordable:
    scores = np.asarray(said.scores or [0.0] * len(served.labels), np.float32)
    record = _make_record(served, caller.key_id, taken, embedding, scores)
    return replace(
        record,
        version=said.version or served.number,
        label=said.label,
        scores=scores.tolist() if said.scores else [],
        made_elsewhere=True,
        client_ref=said.client_ref,
    )
