"""Versions as single files for devices: found where one was made before, else made by a worker.

The row is the job and the file lies in `<model>/.devices/`, beside the versions, where it may go at any time:
whoever asks next has it made anew.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.artefacts import HEAD
from backtalk.callers import Caller
from backtalk.champions import get_model, get_version, locate
from backtalk.devicebuild import Built, build_file, digest_file
from backtalk.devicecheck import check_form
from backtalk.errors import ArtefactInvalid, BacktalkError, InvalidInput, UnknownForm
from backtalk.events import DeviceFileAsked
from backtalk.outbox import emit
from backtalk.states import DeviceForm, VersionState
from backtalk.system import System
from backtalk.tables import Backbone as BackboneRow
from backtalk.tables import DeviceFile, Model, Version

log = logging.getLogger(__name__)

FOLDER = ".devices"
KEPT = 8  # files of one model, the newest; others are made anew when somebody asks
RING_AGAIN = timedelta(seconds=60)  # asked for so long ago and not made: the doorbell was lost
TOLD = timedelta(minutes=10)  # so long everybody who asks hears why there is no file; then it is tried again


@dataclass(frozen=True)
class Ready:
    """A file whose sum was just found right."""

    path: Path
    name: str  # for whoever saves it
    sha256: str
    byte_size: int


@dataclass(frozen=True)
class Making:
    """A worker has been asked for it."""

    model: str
    version: int
    form: DeviceForm


def parse_form(word: str) -> DeviceForm:
    """Raises UnknownForm, which lists those that there are."""
    try:
        return DeviceForm(word)
    except ValueError:
        known = ", ".join(DeviceForm)
        raise UnknownForm(f"There is no form {word!r}. Use one of {known}.") from None


# --- asking ------------------------------------------------------------------------------------
def find_file(
    session: Session, system: System, *, model_name: str, number: int, form: DeviceForm, caller: Caller
) -> Ready | Making:
    """The file, or the promise of one. Reads every byte of it.

    Raises:
        ModelNotFound, VersionNotFound
        InvalidInput: this version has no file of that form.
        ArtefactInvalid: its files are gone or damaged, or it was tried just now and could not be made.
    """
    model = get_model(session, model_name)
    version = get_version(session, model, number)
    check_version(session, system, version, form)
    row = session.scalar(_select(version, form))
    found = _find_whole(system, model, version, row)
    return found or _ask(session, system, model, version, form, caller)


def _ask(
    session: Session, system: System, model: Model, version: Version, form: DeviceForm, caller: Caller
) -> Ready | Making:
    """Ring for a worker, once for all who ask at the same time."""
    never = func.to_timestamp(0)
    values = {"version_id": version.id, "form": form, "asked_by": caller.actor, "asked_at": never}
    session.execute(insert(DeviceFile).values(values).on_conflict_do_nothing())
    locked = _select(version, form).with_for_update().execution_options(populate_existing=True)
    row = session.scalars(locked).one()
    if found := _find_whole(system, model, version, row):  # made in this very moment
        return found
    now = session.scalars(select(func.now())).one()
    if row.problem and row.settled_at and now - row.settled_at < TOLD:
        raise ArtefactInvalid(row.problem)
    if row.made_at or row.problem or now - row.asked_at >= RING_AGAIN:
        row.asked_by, row.asked_at = caller.actor, now
        row.made_at = row.problem = row.settled_at = None
        emit(session, DeviceFileAsked(model_id=model.id, device_file_id=row.id))
    return Making(model.name, version.number, form)


def _select(version: Version, form: DeviceForm) -> Select[DeviceFile]:
    return select(DeviceFile).where(DeviceFile.version_id == version.id, DeviceFile.form == form)


def _find_whole(system: System, model: Model, version: Version, row: DeviceFile | None) -> Ready | None:
    """The file that a row speaks of, if it is there and has its sum."""
    if row is None or row.made_at is None or row.sha256 is None:
        return None
    form = DeviceForm(row.form)
    path = name_path(system, model.name, version.number, form)
    if digest_file(path) != row.sha256:
        return None
    return Ready(path, name_download(model.name, version.number, form), row.sha256, row.byte_size or 0)


def check_version(session: Session, system: System, version: Version, form: DeviceForm) -> None:
    """Refuse what no worker could make.

    Raises:
        InvalidInput: another form than the version can have.
        ArtefactInvalid: it is quarantined, or nothing is left of it.
    """
    if version.state == VersionState.QUARANTINED:
        raise ArtefactInvalid(f"Version {version.number} is quarantined: its files do not verify.")
    if not (locate(system, version) / HEAD).is_file():
        gone = "were pruned to save room" if version.pruned_at is not None else "are missing"
        raise ArtefactInvalid(f"The files of version {version.number} {gone}, so no file can be made of it.")
    row = session.get_one(BackboneRow, version.backbone_digest)
    check_form(form, integer=row.quantised_from is not None)


def name_path(system: System, model_name: str, number: int, form: DeviceForm) -> Path:
    return system.versions.golden_path(model_name).parents[1] / FOLDER / f"{int(number)}-{form}.tflite"


def name_download(model_name: str, number: int, form: DeviceForm) -> str:
    """Of letters, digits and hyphens, as models are called."""
    return f"{model_name}-{number}-{form}.tflite"


def list_forms(session: Session, version: Version) -> dict[DeviceForm, DeviceFile | None]:
    """The forms that this version can have, each with what was asked for and became of it."""
    rows = session.scalars(select(DeviceFile).where(DeviceFile.version_id == version.id))
    asked = {row.form: row for row in rows}
    integer = session.get_one(BackboneRow, version.backbone_digest).quantised_from is not None
    return {form: asked.get(form) for form in DeviceForm if (form is DeviceForm.INT8) is integer}


# --- making ------------------------------------------------------------------------------------
def make_file(system: System, device_file_id: int, is_stopping: Callable[[], bool]) -> None:
    """A worker's task: make what the row asks for, unless it is there, and write down what came of it."""
    with system.db.reading() as session:
        row = session.get(DeviceFile, device_file_id)
        if row is None or row.made_at is not None or row.problem is not None:
            return
        version = session.get_one(Version, row.version_id)
        model, form = session.get_one(Model, version.model_id), DeviceForm(row.form)
    target = name_path(system, model.name, version.number, form)
    values: dict[str, Any]
    try:
        built = build_file(system, model, version, form, target, is_stopping)
        values = {"sha256": built.sha256, "byte_size": built.byte_size, "checked": built.checked}
        values["made_at"] = func.now()
    except BacktalkError as error:
        if is_stopping():
            return  # whoever asks again rings again
        log.warning("%s: version %d as %s: %s", model.name, version.number, form, error.message)
        values = {"problem": error.message}
    with system.db.transaction() as session:
        row = session.get_one(DeviceFile, device_file_id)
        for name, value in (values | {"settled_at": func.now()}).items():
            setattr(row, name, value)
    _keep_newest(target.parent)


def export_file(
    system: System, *, model_name: str, number: int | None, form: DeviceForm, out: Path, caller: Caller
) -> Built:
    """Make a file now and put it to `out`, a file or a folder that is there.

    It is of the live version where no `number` is given.

    Raises:
        ModelNotFound, VersionNotFound, and whatever `check_version` and `build_file` raise.
    """
    with system.db.reading() as session:
        model = get_model(session, model_name)
        version = get_version(session, model, model.live_version if number is None else number)
        check_version(session, system, version, form)
    target = out / name_download(model.name, version.number, form) if out.is_dir() else out
    if not target.parent.is_dir():
        raise InvalidInput(f"There is no folder {target.parent} to write {target.name} into.")
    built = build_file(system, model, version, form, target)
    with system.db.transaction() as session:
        subject = f"model:{model.name}"
        audit.record(
            session, caller.actor, "version.download", subject, version=version.number, form=str(form)
        )
    return built


def _keep_newest(folder: Path) -> None:
    """Files of versions long replaced go by themselves."""
    found = sorted(folder.glob("*.tflite"), key=_read_time, reverse=True)
    for path in found[KEPT:]:
        path.unlink(missing_ok=True)


def _read_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # by another worker, just now
        return 0.0
