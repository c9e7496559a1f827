"""Takes in a dataset of another installation with its splits: what is taught there never judges here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.baserows import put_images
from backtalk.callers import CLI, Caller
from backtalk.champions import get_champion, get_model
from backtalk.dataset import lock_decisions
from backtalk.datasetfiles import Dataset, Entry, read_dataset, read_picture
from backtalk.db import lock_model
from backtalk.digests import digest_content
from backtalk.embeddings import save_embeddings
from backtalk.errors import DatasetConflict, UnknownLabel
from backtalk.groups import Foreign, join_groups
from backtalk.images import MAX_WRITTEN_BYTES, Picture, to_input
from backtalk.progress import Report, tell_nobody
from backtalk.runtime import Backbone
from backtalk.snapshots import count_samples, keep_snapshot
from backtalk.states import Side, Split
from backtalk.system import System
from backtalk.tables import Image, Model, Sample
from backtalk.tombstones import find_deleted

SHOWN = 20  # pictures that a refusal names


@dataclass(frozen=True)
class Imported:
    """`digest`: of the snapshot that is here now, the same as the dataset's."""

    digest: str
    new: int
    known: int
    unlabelled: int


@dataclass
class _Stored:
    """What the image store said of each entry, in their order."""

    keys: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def import_dataset(
    system: System,
    *,
    model_name: str,
    folder: Path,
    report: Report = tell_nobody,
    caller: Caller = CLI,
) -> Imported:
    """Make a dataset's pictures samples of a model, all or none of them.

    The next run learns from them. Nothing is imported that contradicts what is known here: another label, or
    another side than the one that the same picture, or one much like it, was drawn to; nor what was deleted.

    Raises:
        ModelNotFound, UnknownLabel
        DatasetInvalid: the folder is no dataset, or damaged.
        DatasetConflict: it contradicts what is known here; `files` names the first pictures.
    """
    dataset = read_dataset(folder)
    with system.db.reading() as session:
        model = get_model(session, model_name)
        digest = get_champion(session, model.id).backbone_digest
        _refuse_deleted(session, dataset)  # before the pictures are read, which may take long
    _check_labels(model, dataset)
    backbone = Backbone(system.versions.backbone_dir(digest), system.settings.inference_threads)
    stored = _Stored()
    total = len(dataset.entries)
    inputs = _read_pictures(system, folder, dataset.entries, stored, backbone.input_size)
    embeddings = backbone.embed_many(inputs, lambda done: report("pictures", done, total))
    with system.db.transaction() as session:
        made = _insert(session, model.id, dataset, stored, embeddings, digest, caller)
    _look_again(system, folder, dataset.entries, stored)
    return made


def _check_labels(model: Model, dataset: Dataset) -> None:
    unknown = sorted({e.label for e in dataset.entries if e.label} - set(model.labels))
    if unknown:
        raise UnknownLabel(
            f"The dataset has labels that {model.name} has not: {', '.join(unknown)}.", labels=model.labels
        )


def _refuse_deleted(session: Session, dataset: Dataset) -> None:
    described, pixels = dataset.description, [entry.pixels_sha256 for entry in dataset.entries]
    deleted = find_deleted(session, [described.digest, described.snapshot], pixels)
    _refuse("were deleted here", [e for e in dataset.entries if e.pixels_sha256 in deleted], dataset)


def _read_pictures(
    system: System, folder: Path, entries: Sequence[Entry], stored: _Stored, size: int
) -> Iterator[NDArray[np.uint8]]:
    """(S, S, 3), uint8, of each; each goes into the store on the way."""
    for entry in entries:
        picture = _read_picture(system, folder, entry)
        stored.keys.append(system.images.put(entry.pixels_sha256, picture.data))
        stored.sizes.append(len(picture.data))
        yield to_input(picture.pixels, size)


def _read_picture(system: System, folder: Path, entry: Entry) -> Picture:
    """It may be as large as an export writes it, though no upload may: what is kept here can be taken in."""
    return read_picture(folder, entry, max(system.settings.max_image_bytes, MAX_WRITTEN_BYTES))


def _look_again(system: System, folder: Path, entries: Sequence[Entry], stored: _Stored) -> None:
    """Upkeep may have removed a file that no row named yet: one that was dropped here, or lay for an hour."""
    for entry, key in zip(entries, stored.keys, strict=True):
        if not system.images.has(key):
            system.images.put(entry.pixels_sha256, _read_picture(system, folder, entry).data)


def _insert(
    session: Session,
    model_id: int,
    dataset: Dataset,
    stored: _Stored,
    embeddings: NDArray[np.float16],
    backbone_digest: str,
    caller: Caller,
) -> Imported:
    model = session.get_one(Model, model_id)
    lock_decisions(session, model.id)
    lock_model(session, model.id, "groups")  # and then images, as whoever deletes some takes them
    _refuse_deleted(session, dataset)
    entries = dataset.entries
    image_ids = _put_images(session, entries, stored)
    save_embeddings(session, backbone_digest, image_ids, embeddings)
    by_image = dict(zip(image_ids, entries, strict=True))
    foreign = [
        Foreign(i, e.perceptual_hash, e.group, e.group_hash, _find_side(e)) for i, e in by_image.items()
    ]
    elsewhere = join_groups(session, model, foreign)
    _refuse("lie on or near another side here", [by_image[i] for i in elsewhere], dataset)
    present = _find_present(session, model.id, image_ids)
    other = [by_image[i] for i, sample in present.items() if not _is_same(sample, by_image[i])]
    _refuse("are known otherwise here", other, dataset)
    made = [
        _make_sample(model.id, i, e) for i, e in by_image.items() if e.label is not None and i not in present
    ]
    session.add_all(made)
    session.flush()
    taught = [*made, *(present[i] for i in by_image if i in present)]
    silent = [i for i, e in by_image.items() if e.label is None]
    digest = _keep_snapshot(session, model, dataset, taught, silent)
    audit.record(
        session, caller.actor, "dataset.import", f"model:{model.name}", digest=digest, samples=len(made)
    )
    return Imported(digest, len(made), len(present), len(silent))


def _find_side(entry: Entry) -> Side:
    return Side.VALIDATION if entry.split == Split.VALIDATION else Side.TRAIN


def _put_images(session: Session, entries: Sequence[Entry], stored: _Stored) -> list[UUID]:
    rows = [
        {
            "pixels_sha256": entry.pixels_sha256,
            "perceptual_hash": entry.perceptual_hash,
            "width": entry.width,
            "height": entry.height,
            "store_key": key,
            "byte_size": size,
        }
        for entry, key, size in zip(entries, stored.keys, stored.sizes, strict=True)
    ]
    return put_images(session, rows)


def _refuse(why: str, refused: Sequence[Entry], dataset: Dataset) -> None:
    if refused:
        files = sorted(entry.file for entry in refused)
        raise DatasetConflict(
            f"{len(files)} of {len(dataset.entries)} pictures {why}, such as {files[0]}; nothing was "
            "imported. Take them out where the dataset was made, and export it again.",
            files=files[:SHOWN],
        )


def _find_present(session: Session, model_id: int, image_ids: Sequence[UUID]) -> dict[UUID, Sample]:
    rows = session.scalars(
        select(Sample).where(
            Sample.model_id == model_id, Sample.image_id.in_(image_ids), Sample.retracted_at.is_(None)
        )
    )
    return {row.image_id: row for row in rows}


def _is_same(sample: Sample, entry: Entry) -> bool:
    return (sample.label, sample.split, sample.origin) == (entry.label, entry.split, entry.origin)


def _make_sample(model_id: int, image_id: UUID, entry: Entry) -> Sample:
    return Sample(
        model_id=model_id,
        image_id=image_id,
        label=entry.label,
        split=entry.split,
        origin=entry.origin,
        by_person=entry.by_person,
    )


def _keep_snapshot(
    session: Session, model: Model, dataset: Dataset, taught: Sequence[Sample], silent: Sequence[UUID]
) -> str:
    """From the rows that are here now, not from what the folder says."""
    wanted = [*(sample.image_id for sample in taught), *silent]
    rows = session.execute(select(Image.id, Image.pixels_sha256).where(Image.id.in_(wanted)))
    pixels = {row.id: str(row.pixels_sha256) for row in rows}
    left_out: dict[str, Any] = dataset.description.left_out
    labelled = [(pixels[s.image_id], s.label, s.split, s.origin) for s in taught]
    digest = digest_content(labelled, (pixels[i] for i in silent), left_out)
    assert digest == dataset.description.digest  # each row was held against its entry
    counts = count_samples((s.split, s.origin, s.label) for s in taught)
    keep_snapshot(
        session,
        model.id,
        digest=digest,
        sample_ids=sorted(s.id for s in taught),
        stay_right_ids=sorted(silent),
        counts=counts | left_out | {"stay_right": len(silent)},
    )
    return digest
