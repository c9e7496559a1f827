"""Versions on disk that really answer: the small backbone with random heads."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk.heads import Head
from backtalk.runtime import Backbone
from backtalk.states import VersionState
from backtalk.store import write_sums
from backtalk.system import System
from backtalk.tables import Model, Version
from tests import factories

LABELS = ("cat", "dog", "owl")
CANDIDATE = "animals/.candidates/01890000-0000-7000-8000-000000000004-1"


def make_served_model(
    system: System, backbone_folder: Path, name: str = "animals", *, versions: int = 2, **values: object
) -> Model:
    """A model with that many versions on disk, the first of them live."""
    target = system.versions.backbone_dir(backbone_folder.name)
    if not target.exists():
        shutil.copytree(backbone_folder, target)
    width = Backbone(target, 1).width
    with system.db.transaction() as session:
        factories.make_backbone(session, backbone_folder.name, width=width)
        given = {"labels": list(LABELS), "policy": {"audit_share": 0.0}} | values
        model: Model = factories.make_model(session, name, live=False, **given)
        for number in range(1, versions + 1):
            write_version(system, session, model, number, backbone_folder.name, width)
        model.live_version, model.generation, model.next_version = 1, 1, versions + 1
    return model


def write_version(
    system: System, session: Session, model: Model, number: int, digest: str, width: int
) -> Version:
    """Files and row of one version, with a head of its own."""
    draw = np.random.default_rng(number)
    head = Head(
        weights=draw.normal(0, 2, (len(model.labels), width)).astype(np.float32),
        bias=np.zeros(len(model.labels), np.float32),
        temperature=1.0,
        labels=tuple(model.labels),
        backbone_digest=digest,
    )
    folder = system.versions.root / model.name / str(number)
    folder.mkdir(parents=True)
    head.save(folder / "head.npz")
    return factories.make_version(
        session,
        model,
        number,
        VersionState.LIVE if number == 1 else VersionState.CANDIDATE,
        backbone_digest=digest,
        artefact_digest=write_sums(folder),
    )


def unpublish(system: System, number: int) -> None:
    """As a run leaves its version: without an integer name."""
    with system.db.transaction() as session:
        version = session.scalars(select(Version).where(Version.number == number)).one()
        target = system.versions.resolve(CANDIDATE)
        target.parent.mkdir(exist_ok=True)
        system.versions.resolve(version.path).rename(target)
        version.path = CANDIDATE


def go_live(system: System, name: str, number: int) -> int:
    """What a promotion leaves in the rows; returns the generation."""
    with system.db.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == name).with_for_update()).one()
        rows = {
            row.number: row for row in session.scalars(select(Version).where(Version.model_id == model.id))
        }
        rows[model.live_version or 0].state = VersionState.RETIRED
        session.flush()
        rows[number].state = VersionState.LIVE
        model.live_version, model.generation = number, model.generation + 1
        return int(model.generation)


def make_jpeg(seed: int = 0, size: tuple[int, int] = (60, 40), **options: object) -> bytes:
    """A picture of its own for each seed."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, **options)
    return file.getvalue()
