"""Makes a model from a folder: groups, sides, version 1. Nothing is visible before everything is there."""

import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backtalk import audit, snapshots
from backtalk.backboning import DEFAULT_BACKBONE, BackboneWish, prepare_backbone
from backtalk.basefolder import BaseFolder, check_images, read_images, scan_folder, thin_out
from backtalk.baserows import Grouping, group_images, insert_base, split_of
from backtalk.boards import find_board, name_board
from backtalk.callers import CLI, Caller
from backtalk.champions import rewrite_models_config
from backtalk.digests import digest_content
from backtalk.errors import BadFolder, NameTaken
from backtalk.fitting import FitData, FitRequest, Fitted, fit_head
from backtalk.golden import write_golden
from backtalk.groups import base_eval_share
from backtalk.heads import Head
from backtalk.intervals import wilson
from backtalk.ledger import append_entry
from backtalk.policy import Policy
from backtalk.progress import Report, tell_nobody
from backtalk.runtime import Backbone
from backtalk.states import Origin, Side, Split, VersionState
from backtalk.store import check_model_name
from backtalk.system import System
from backtalk.tables import Model, Sample, Version
from backtalk.trainers import Trainers

GOLDEN_IMAGES = 32
SEED = 0


@dataclass(frozen=True)
class Created:
    """What the command line tells of a new model."""

    name: str
    labels: list[str]
    images: int
    repeated: int
    skipped: list[tuple[Path, str]]
    groups: int
    largest_group: int
    straddling: int
    splits: dict[str, int]
    holdout_accuracy: float | None
    holdout_interval: tuple[float, float] | None  # 95 %, Wilson


def create_model(
    system: System,
    trainers: Trainers,
    *,
    name: str,
    folder: Path,
    backbone: str | BackboneWish = DEFAULT_BACKBONE,
    policy: dict[str, Any] | None = None,
    report: Report = tell_nobody,
    caller: Caller = CLI,
) -> Created:
    """Read the folder, draw sides, fit version 1 and make it live.

    Raises:
        InvalidName, NameTaken, InvalidPolicy, BadFolder
        TrainerFailed, ArtefactInvalid: version 1 could not be made.
    """
    check_model_name(name)
    checked = Policy.parse(policy or {})
    _check_free(system, name)
    base = scan_folder(folder)
    described = prepare_backbone(system, trainers, backbone, report)
    runtime = Backbone(system.versions.backbone_dir(described["digest"]), system.settings.inference_threads)
    inputs, embeddings = _embed(system, base, runtime, report)
    check_images(base)
    salt = secrets.token_bytes(32)
    eval_share = base_eval_share(len(base.images))
    grouping = group_images(base.images, salt, eval_share)
    shutil.rmtree(system.versions.root / name, ignore_errors=True)  # left by a creation that broke off
    _write_golden(system, name, base, inputs)
    request = _request(system, name, base, grouping, described["digest"])
    data = _fit_data(base, grouping, embeddings)
    fitted = fit_head(system.versions, trainers, request, data, _report_fit(report))
    path = system.versions.publish(request.artefact, name, 1, fitted.artefact_digest)
    model = Model(
        name=name,
        labels=base.labels,
        policy=checked.differences(),
        hold=checked.hold,
        salt=salt,
        eval_share=eval_share,
        next_version=2,
    )
    try:
        with system.db.transaction() as session:
            insert_base(session, model, base.images, grouping, embeddings, described)
            _make_live(session, model, request, fitted, path, caller)
    except IntegrityError as error:
        if "uq_models_name" in str(error):
            raise NameTaken(f"There is a model {name!r} already. Choose another name.") from None
        raise
    rewrite_models_config(system)
    report("save", 1, 1)
    return _describe(base, grouping, Head.load(system.versions.resolve(path) / "head.npz"), embeddings, name)


def _check_free(system: System, name: str) -> None:
    with system.db.reading() as session:
        if session.scalar(select(Model.id).where(Model.name == name)) is not None:
            raise NameTaken(f"There is a model {name!r} already. Choose another name.")


def _embed(
    system: System, base: BaseFolder, runtime: Backbone, report: Report
) -> tuple[dict[int, NDArray[np.uint8]], NDArray[np.float16]]:
    """Embeddings (N, D) of the images that count, and the inputs of those that become golden."""
    golden: dict[int, NDArray[np.uint8]] = {}

    def inputs() -> Any:
        stream = read_images(
            base,
            system.images,
            runtime.input_size,
            max_bytes=system.settings.max_image_bytes,
            max_pixels=system.settings.max_pixels,
        )
        for position, image in enumerate(stream):
            if base.images[position].upright:
                golden[position] = image
                thin_out(golden, base, GOLDEN_IMAGES)
            yield image

    embeddings = runtime.embed_many(inputs(), lambda done: report("images", done, len(base.files)))
    report("images", len(base.files), len(base.files))
    return golden, embeddings


def _write_golden(system: System, name: str, base: BaseFolder, inputs: dict[int, NDArray[np.uint8]]) -> None:
    chosen = sorted(inputs)[:GOLDEN_IMAGES]
    if not chosen:
        raise BadFolder("No image is a plain JPEG or PNG: add some, since versions are verified on them.")
    encoded = [system.images.get(base.images[i].store_key) for i in chosen]
    write_golden(system.versions.golden_path(name), np.stack([inputs[i] for i in chosen]), encoded)


def _fit_data(base: BaseFolder, grouping: Grouping, embeddings: NDArray[np.float16]) -> FitData:
    """In the order of the pixels' digests, as a run would read them."""
    index = {label: i for i, label in enumerate(base.labels)}
    order = sorted(range(len(base.images)), key=lambda i: base.images[i].pixels_sha256)
    rows = {side: [i for i in order if grouping.side(i) is side] for side in Side}

    def labels(side: Side) -> NDArray[np.int32]:
        return np.array([index[base.images[i].label] for i in rows[side]], np.int32)

    return FitData(
        train_x=embeddings[rows[Side.TRAIN]],
        train_y=labels(Side.TRAIN),
        validation_x=embeddings[rows[Side.VALIDATION]],
        validation_y=labels(Side.VALIDATION),
        stay_x=embeddings[:0],
        train_seen=np.zeros(len(rows[Side.TRAIN]), np.bool_),  # there is no champion yet
        train_weight=np.ones(len(rows[Side.TRAIN]), np.float32),
    )


def _request(
    system: System, name: str, base: BaseFolder, grouping: Grouping, backbone_digest: str
) -> FitRequest:
    run_id = uuid4()
    return FitRequest(
        model=name,
        run_id=run_id,
        version=1,
        parent_version=None,
        labels=base.labels,
        backbone_digest=backbone_digest,
        champion_head=None,
        seed=SEED,
        snapshot_digest=digest_content(
            (image.pixels_sha256, image.label, split, Origin.BASE)
            for i, image in enumerate(base.images)
            if (split := split_of(grouping.side(i))) in (Split.TRAIN, Split.VALIDATION)
        ),
        artefact=system.versions.candidate_path(name, run_id, 1),
        board=find_board(system, name_board(name, "create", run_id, datetime.now(UTC))),
    )


def _report_fit(report: Report) -> Callable[[dict[str, Any]], None]:
    def on_progress(progress: dict[str, Any]) -> None:
        if progress:
            report("train", float(progress.get("fraction", 0.0)), 1)

    return on_progress


def _keep_snapshot(session: Session, model: Model, request: FitRequest) -> int:
    """What version 1 learned from; how many samples."""
    taught = session.execute(
        select(Sample.id, Sample.split, Sample.origin, Sample.label)
        .where(Sample.model_id == model.id, Sample.split.in_((Split.TRAIN, Split.VALIDATION)))
        .order_by(Sample.id)
    ).all()
    snapshots.keep_snapshot(
        session,
        model.id,
        digest=request.snapshot_digest,
        sample_ids=[row.id for row in taught],
        stay_right_ids=[],
        counts=snapshots.count_samples((row.split, row.origin, row.label) for row in taught),
    )
    return len(taught)


def _make_live(
    session: Session, model: Model, request: FitRequest, fitted: Fitted, path: str, caller: Caller
) -> None:
    taught = _keep_snapshot(session, model, request)
    session.add(
        Version(
            model_id=model.id,
            number=1,
            state=VersionState.LIVE,
            backbone_digest=request.backbone_digest,
            artefact_digest=fitted.artefact_digest,
            path=path,
            metrics=fitted.metrics | {"seconds": fitted.seconds},
            anchored_at=func.now(),
        )
    )
    model.live_version, model.generation = 1, 1
    audit.record(
        session,
        caller.actor,
        "model.create",
        f"model:{model.name}",
        labels=model.labels,
        samples=taught,
    )
    session.flush()
    append_entry(
        session,
        model_id=model.id,
        seq=1,
        action="create",
        version=1,
        previous_version=None,
        run_id=None,
        actor=caller.actor,
        artefact_digest=fitted.artefact_digest,
        detail={"snapshot_digest": request.snapshot_digest},
    )


def _describe(
    base: BaseFolder, grouping: Grouping, head: Head, embeddings: NDArray[np.float16], name: str
) -> Created:
    holdout = [i for i in range(len(base.images)) if grouping.side(i) is Side.EVAL]
    right = sum(
        head.labels[int(best)] == base.images[i].label
        for i, best in zip(holdout, head.scores(embeddings[holdout]).argmax(axis=1), strict=True)
    )
    sizes = Counter(first for first in grouping.first if first >= 0)
    sides = Counter(split_of(grouping.side(i)) for i in range(len(base.images)))
    return Created(
        name=name,
        labels=base.labels,
        images=len(base.images),
        repeated=base.repeated,
        skipped=base.skipped,
        groups=len(sizes),
        largest_group=max(sizes.values()),
        straddling=sides.pop(None, 0),
        splits={str(split): count for split, count in sides.items()},
        holdout_accuracy=right / len(holdout) if holdout else None,
        holdout_interval=wilson(right, len(holdout), 0.95) if holdout else None,
    )
