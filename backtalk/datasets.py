"""Versions of the data: what each run learned from, written out as a folder, and held against another."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image as Pictures
from sqlalchemy import ARRAY, BigInteger, Uuid, any_, literal, select
from sqlalchemy.orm import Session

from backtalk.datasetfiles import (
    UNLABELLED,
    Dataset,
    Description,
    Entry,
    count_entries,
    digest_entries,
    name_file,
    read_description,
    write_tables,
)
from backtalk.errors import Conflict, DatasetInvalid, ImageNotFound, SnapshotNotFound
from backtalk.images import MAX_STORED_PIXELS, decode
from backtalk.progress import Report, tell_nobody
from backtalk.sums import make_folder, sync_folder, write_sums
from backtalk.system import System
from backtalk.tables import GroupMember, Image, ImageGroup, Model, Run, Sample, Snapshot, Version

LEFT_OUT = ("left_out", "capped")  # members of a snapshot's counts that are part of its digest
SHORTEST_DIGEST = 6  # hexadecimal digits that may stand for the whole


@dataclass(frozen=True)
class Listed:
    """A snapshot, and the versions that learned from it."""

    digest: str
    counts: dict[str, Any]
    versions: list[int]
    created_at: datetime


def list_datasets(session: Session, model: Model) -> list[Listed]:
    """Newest first."""
    snapshots = session.scalars(
        select(Snapshot).where(Snapshot.model_id == model.id).order_by(Snapshot.id.desc())
    ).all()
    rows = session.execute(
        select(Run.snapshot_digest, Version.number)
        .join(Version, (Version.model_id == Run.model_id) & (Version.run_id == Run.id))
        .where(Run.model_id == model.id)
    ).all()
    made: dict[str, list[int]] = {s.digest: [] for s in snapshots}
    for digest, number in rows:
        if digest in made:
            made[digest].append(number)
    if snapshots:
        made[snapshots[-1].digest].append(1)  # no run made version 1: it learned from the first
    return [Listed(s.digest, s.counts, sorted(set(made[s.digest])), s.created_at) for s in snapshots]


def find_snapshot(session: Session, model: Model, wanted: str | None) -> Snapshot:
    """By its digest or the beginning of it, by `vN` for what version N learned from; else the newest.

    Raises:
        SnapshotNotFound: none, or several, of that name.
    """
    listed = list_datasets(session, model)
    if wanted is None:
        found = listed[:1]
    elif wanted.startswith("v") and wanted[1:].isdecimal():
        found = [one for one in listed if int(wanted[1:]) in one.versions]
    else:
        found = [one for one in listed if len(wanted) >= SHORTEST_DIGEST and one.digest.startswith(wanted)]
    if len(found) != 1:
        raise SnapshotNotFound(
            f"{model.name} has {'no' if not found else 'more than one'} snapshot {wanted or ''}: "
            f"`backtalk dataset list {model.name}` lists them."
        )
    return session.scalars(
        select(Snapshot).where(Snapshot.model_id == model.id, Snapshot.digest == found[0].digest)
    ).one()


@dataclass(frozen=True)
class _Kept:
    """An entry with where its pixels are kept; None where they are not."""

    entry: Entry
    store_key: str | None
    orientation: int


def read_snapshot(session: Session, model: Model, snapshot: Snapshot) -> Dataset:
    """What a snapshot holds by now; deleted images are missing from it. Files have no names."""
    return _describe(model, snapshot, [kept.entry for kept in _list_kept(session, model, snapshot)])


def _describe(model: Model, snapshot: Snapshot, entries: Sequence[Entry]) -> Dataset:
    left_out: dict[str, Any] = {key: snapshot.counts[key] for key in LEFT_OUT if key in snapshot.counts}
    missing = len(snapshot.sample_ids) + len(snapshot.stay_right_ids) - len(entries)
    description = Description(
        model=model.name,
        labels=list(model.labels),
        digest=digest_entries(entries, left_out),
        snapshot=snapshot.digest,
        missing=missing,
        left_out=left_out,
        counts=count_entries(entries),
    )
    return Dataset(description, list(entries))


_PICTURE = (
    Image.pixels_sha256,
    Image.width,
    Image.height,
    Image.perceptual_hash,
    Image.store_key,
    Image.orientation,
    GroupMember.group_id,
    ImageGroup.perceptual_hash.label("group_hash"),
)


def _list_kept(session: Session, model: Model, snapshot: Snapshot) -> list[_Kept]:
    """By pixels. Images that were deleted since are left out: nothing is left of them."""
    member = (GroupMember.model_id == model.id) & (GroupMember.image_id == Image.id)
    labelled = session.execute(
        select(Sample.label, Sample.split, Sample.origin, Sample.by_person, *_PICTURE)
        .join(Image, Image.id == Sample.image_id)
        .outerjoin(GroupMember, member)
        .outerjoin(ImageGroup, ImageGroup.id == GroupMember.group_id)
        .where(Sample.id == any_(literal(snapshot.sample_ids, ARRAY(BigInteger))), Image.deleted_at.is_(None))
    ).mappings()
    unlabelled = session.execute(
        select(*_PICTURE)
        .outerjoin(GroupMember, member)
        .outerjoin(ImageGroup, ImageGroup.id == GroupMember.group_id)
        .where(Image.id == any_(literal(snapshot.stay_right_ids, ARRAY(Uuid))), Image.deleted_at.is_(None))
    ).mappings()
    rows = [dict(row) for row in labelled]
    silent = {"label": None, "split": UNLABELLED, "origin": None, "by_person": None}
    rows += [dict(row) | silent for row in unlabelled]
    rows.sort(key=lambda row: str(row["pixels_sha256"]))
    numbers: dict[Any, int] = {}
    return [_read(row, numbers) for row in rows]


def _read(row: dict[str, Any], numbers: dict[Any, int]) -> _Kept:
    """Groups are numbered as they come: ids of one database mean nothing in another."""
    store_key, orientation = row.pop("store_key"), row.pop("orientation")
    group = row.pop("group_id")
    number = numbers.setdefault(group if group is not None else ("alone", len(numbers)), len(numbers))
    group_hash = row.pop("group_hash")
    if group_hash is None:
        group_hash = row["perceptual_hash"]
    return _Kept(Entry(file="", group=number, group_hash=group_hash, **row), store_key, orientation)


@dataclass(frozen=True)
class Exported:
    """`not_kept`: pictures whose pixels the policy keeps no more, left out like those that were deleted."""

    description: Description
    folder: Path
    files: int
    byte_size: int


def export_dataset(
    system: System, model: Model, snapshot: Snapshot, folder: Path, report: Report = tell_nobody
) -> Exported:
    """Write a snapshot as a folder, in place of an earlier export if one lies there: whole or not at all.

    Raises:
        Conflict: something else lies there.
        DatasetInvalid: pyarrow is not installed.
    """
    folder = folder.resolve()  # of a link, the folder that it leads to
    _undo_broken_off(folder)
    _refuse_foreign(folder)
    with system.db.reading() as session:
        kept = _list_kept(session, model, snapshot)
    aside = folder.parent / f".{folder.name}.{uuid4().hex}"
    make_folder(aside)
    try:
        entries, byte_size = _write_pictures(system, kept, aside, report)
        dataset = _describe(model, snapshot, entries)
        write_tables(aside, dataset)
        write_sums(aside)
        _replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(dataset.description, folder, len(entries), byte_size)


def _write_pictures(
    system: System, kept: Sequence[_Kept], folder: Path, report: Report
) -> tuple[list[Entry], int]:
    entries, byte_size = [], 0
    for number, one in enumerate(kept, 1):
        found = _find_upright(system, one)
        if found is not None:
            data, extension = found
            entry = replace(one.entry, file=name_file(one.entry, extension))
            path = folder / entry.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            entries.append(entry)
            byte_size += len(data)
        report("pictures", number, len(kept))
    return entries, byte_size


def _find_upright(system: System, kept: _Kept) -> tuple[bytes, str] | None:
    """The kept file as it is, or, where its orientation stands in a column alone, upright as a PNG."""
    if kept.store_key is None:
        return None
    try:
        data = system.images.get(kept.store_key)
    except ImageNotFound:
        return None
    picture = decode(data, max_bytes=len(data), max_pixels=MAX_STORED_PIXELS, orientation=kept.orientation)
    if kept.orientation == 1:
        return data, {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[picture.format]
    out = BytesIO()
    Pictures.fromarray(picture.pixels).save(out, "PNG")
    return out.getvalue(), "png"


def _refuse_foreign(folder: Path) -> None:
    """Only what an export wrote, all of it and nothing beside, may go: the rest is somebody's work."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        read_description(folder)
    except DatasetInvalid as error:
        raise Conflict(
            f"{folder} is not replaced, since it holds something else than an export as it was written: "
            f"{error.message} Name a new or an empty folder."
        ) from None


def _replace(aside: Path, folder: Path) -> None:
    """The old one is gone for the moment between two renames; `_undo_broken_off` is for who dies there."""
    gone = aside.with_name(f"{aside.name}.old")
    if folder.exists():
        folder.rename(gone)
    try:
        aside.rename(folder)
    except BaseException:
        if gone.exists():
            gone.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def _undo_broken_off(folder: Path) -> None:
    """What an export left that was killed at its renames: the one before it takes its place again."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{32}}\.old")
    left = [path for path in folder.parent.glob(".*.old") if name.fullmatch(path.name)]
    for gone in left:
        if not folder.exists():
            gone.rename(folder)
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(gone.with_suffix(""), ignore_errors=True)  # what was to take its place
