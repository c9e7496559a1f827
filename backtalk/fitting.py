"""Hands a head fit to a trainer and has another process verify what it wrote. No TensorFlow here."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from backtalk.errors import SnapshotUnusable
from backtalk.failpoints import failpoint
from backtalk.store import VersionStore
from backtalk.trainers import Trainers

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FitData:
    """Embeddings (N, D), float16, and labels (N,), int32, as indices into the model's labels."""

    train_x: NDArray[np.float16]
    train_y: NDArray[np.int32]
    validation_x: NDArray[np.float16]
    validation_y: NDArray[np.int32]
    stay_x: NDArray[np.float16]
    train_seen: NDArray[np.bool_]  # (N,): the champion was fitted to it, so that it proves nothing there
    train_weight: NDArray[np.float32]  # (N,): 1, or less where near-duplicates share it

    def check(self, labels: Sequence[str]) -> None:
        """Raises SnapshotUnusable where no head can be fitted."""
        missing = [label for i, label in enumerate(labels) if not np.any(self.train_y == i)]
        if missing:
            raise SnapshotUnusable(
                f"There is no training image of {', '.join(missing)}. A head needs one of each label."
            )


@dataclass(frozen=True)
class FitRequest:
    """Everything that a version's card says of how it was made."""

    model: str
    run_id: UUID
    version: int
    parent_version: int | None
    labels: list[str]
    backbone_digest: str
    champion_head: Path | None
    seed: int
    snapshot_digest: str
    artefact: str  # relative to the store
    tuning: dict[str, Any] | None = None  # of a full run: how its backbone was moved
    board: Path | None = None  # where TensorBoard's logs go
    saved_model: Path | None = None  # of an 8-bit version: its parent's folder, whose SavedModel is its own


@dataclass(frozen=True)
class Fitted:
    artefact_digest: str
    metrics: dict[str, Any]  # chosen, counts, validation, verification
    seconds: dict[str, float] = field(default_factory=dict)


def fit_head(
    versions: VersionStore, trainers: Trainers, request: FitRequest, data: FitData, report: Report
) -> Fitted:
    """Fit, export and verify one version; its folder is `request.artefact`.

    `report` gets progress about every second; what it raises ends the trainer.

    Raises:
        SnapshotUnusable, TrainerFailed, ArtefactInvalid
    """
    data.check(request.labels)
    job = versions.root / ".jobs" / Path(request.artefact).name
    try:
        _write_job(job, versions, request, data)
        failpoint("training.after_job")
        with trainers.taken(request.backbone_digest, versions.root) as trainer:
            trainers.keep_spare(request.backbone_digest, versions.root)  # loads while this one fits
            fitted = trainer.call({"do": "fit", "job": str(job)}, report)
        failpoint("training.before_verify")
        verified, verify_s = _verify(versions, trainers, request, fitted["artefact_digest"], report)
    finally:
        shutil.rmtree(job, ignore_errors=True)
    metrics = {key: fitted[key] for key in ("chosen", "counts", "validation")} | {"verified": verified}
    if request.tuning is not None:
        metrics["tuning"] = request.tuning
    return Fitted(fitted["artefact_digest"], metrics, fitted["seconds"] | {"verify": verify_s})


def _verify(
    versions: VersionStore, trainers: Trainers, request: FitRequest, artefact_digest: str, report: Report
) -> tuple[dict[str, Any], float]:
    """By a process that did not write it, which then waits as the next trainer."""
    started = monotonic()
    command = {
        "do": "verify",
        "artefact": str(versions.resolve(request.artefact)),
        "artefact_digest": artefact_digest,
        "golden": str(versions.golden_path(request.model)),
        "store": str(versions.root),
    }
    with trainers.taken(request.backbone_digest, versions.root, give_back=True) as verifier:
        verified = verifier.call(command, report)
    return verified, round(monotonic() - started, 3)


def _write_job(job: Path, versions: VersionStore, request: FitRequest, data: FitData) -> None:
    job.mkdir(parents=True, exist_ok=True)
    np.savez(job / "data.npz", **vars(data))
    content = {
        "model": request.model,
        "run_id": str(request.run_id),
        "version": request.version,
        "parent_version": request.parent_version,
        "labels": request.labels,
        "backbone_digest": request.backbone_digest,
        "store": str(versions.root),
        "champion_head": str(request.champion_head) if request.champion_head else None,
        "seed": request.seed,
        "snapshot_digest": request.snapshot_digest,
        "artefact": str(versions.resolve(request.artefact)),
        "golden": str(versions.golden_path(request.model)),
        "tuning": request.tuning,
        "board": str(request.board) if request.board else None,
        "saved_model": str(request.saved_model) if request.saved_model else None,
    }
    (job / "job.json").write_text(json.dumps(content), encoding="utf-8")
