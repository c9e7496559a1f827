"""Makes a version into one file for devices: written by a trainer, checked here, then given its name."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from backtalk import __version__
from backtalk.artefacts import HEAD, verify_artefact
from backtalk.champions import locate
from backtalk.devicecheck import check_file, explain_disk
from backtalk.errors import TrainerFailed
from backtalk.failpoints import failpoint
from backtalk.golden import read_golden
from backtalk.heads import Head
from backtalk.runtime import Backbone
from backtalk.states import DeviceForm
from backtalk.sums import make_folder, sync_folder
from backtalk.system import System
from backtalk.tables import Model, Version
from backtalk.trainers import Trainer

LONGEST_S = 600.0  # of one attempt


@dataclass(frozen=True)
class Built:
    path: Path
    sha256: str
    byte_size: int
    checked: dict[str, Any]  # see `devicecheck.check_file`


def digest_file(path: Path) -> str | None:
    """SHA-256 in hexadecimal; None where the file is not there (any more)."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def build_file(
    system: System,
    model: Model,
    version: Version,
    form: DeviceForm,
    target: Path,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Built:
    """Have a trainer of its own write the file aside, check it here, and give it its name.

    It appears whole or not at all. The warm trainer is left alone, for the run that may come meanwhile.

    Raises:
        InvalidInput: not in this form, or the folder of `target` cannot be written.
        ArtefactInvalid: the version does not verify, or the file does not agree with what serves.
        TrainerFailed: also OutOfRoom, where the disk is full.
    """
    verify_artefact(system, version)
    aside = target.parent / f".{target.name}.{uuid4().hex}"
    try:
        make_folder(target.parent)
        _have_written(system, model, version, form, aside, is_stopping)
        head = Head.load(locate(system, version) / HEAD)
        backbone = Backbone(system.versions.backbone_dir(version.backbone_digest), 1)
        golden = read_golden(system.versions.golden_path(model.name))
        checked = check_file(aside, form, head, backbone, golden)
        digest, size = digest_file(aside) or "", aside.stat().st_size
        failpoint("devicefile.before_rename")
        aside.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise explain_disk(error, target.parent) from None
    finally:
        aside.unlink(missing_ok=True)
    return Built(target, digest, size, checked)


def _have_written(
    system: System,
    model: Model,
    version: Version,
    form: DeviceForm,
    aside: Path,
    is_stopping: Callable[[], bool],
) -> None:
    deadline = monotonic() + LONGEST_S
    settings = system.settings
    command = {
        "do": "write_whole_model",
        "head": str(locate(system, version) / HEAD),
        "store": str(system.versions.root),
        "golden": str(system.versions.golden_path(model.name)),
        "form": str(form),
        "target": str(aside),
        "name": model.name,
        "version": str(version.number),
        "text": f"Tells {len(model.labels)} labels apart: {', '.join(model.labels)}. "
        f"Version {version.number} of {model.name} by Backtalk {__version__}, {form}. "
        "RGB pixels in, 0 to 255; scores out.",
        "author": settings.author or f"Backtalk {__version__}",
        "licence": settings.licence or "",
    }
    trainer = Trainer.start()
    try:
        trainer.call(command, stop=lambda: is_stopping() or monotonic() > deadline)
    except TrainerFailed as error:
        if monotonic() > deadline:
            raise TrainerFailed(f"The file was not written within {LONGEST_S / 60:.0f} minutes.") from error
        raise
    finally:
        trainer.close()
