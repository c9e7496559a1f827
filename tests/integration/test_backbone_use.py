"""Backbones go when no version needs them any more, and not before."""

import os
import shutil
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from backtalk.backbone_use import find_used, prune_unused
from backtalk.embeddings import save_embeddings
from backtalk.states import RunKind, RunState, VersionState
from backtalk.system import System
from backtalk.tables import Embedding, Model
from tests import factories as make
from tests.served import make_served_model


def add_version(system: System, number: int, digest: str, folder: Path, **values: object) -> None:
    """A version on a backbone of its own, which embedded a picture."""
    shutil.copytree(folder, system.versions.backbone_dir(digest))
    os.utime(system.versions.backbone_dir(digest), (0, 0))
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        make.make_version(session, model, number, backbone_digest=digest, **values)
        save_embeddings(session, digest, [make.make_image(session).id], np.zeros((1, 16), np.float16))


def count_embeddings(system: System, digest: str) -> int:
    with system.db.reading() as session:
        found = select(func.count()).select_from(Embedding).where(Embedding.backbone_digest == digest)
        return session.scalar(found) or 0


def test_a_backbone_goes_with_the_last_head_on_it_unless_it_was_live(
    system: System, tiny_folder: Path
) -> None:
    make_served_model(system, tiny_folder)
    kept, gone, young = "1" * 64, "2" * 64, "3" * 64
    add_version(system, 7, kept, tiny_folder, state=VersionState.INCONCLUSIVE)
    add_version(system, 8, gone, tiny_folder, state=VersionState.REJECTED, pruned_at=func.now())
    add_version(system, 9, young, tiny_folder, state=VersionState.REJECTED, pruned_at=func.now())
    os.utime(system.versions.backbone_dir(young))
    with system.db.reading() as session:
        assert find_used(session) == {tiny_folder.name, kept}
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        run = make.make_run(session, model, kind=RunKind.FULL, state=RunState.TRAINING)
    prune_unused(system, older_than_s=3600)
    assert system.versions.backbone_dir(gone).exists()  # a run may just have put it there
    with system.db.transaction() as session:
        make.reload(session, type(run), run.id).state = RunState.FAILED
    prune_unused(system, older_than_s=3600)
    left = {path.name for path in (system.versions.root / "_backbones").iterdir()}
    assert left == {tiny_folder.name, kept, young}
    assert (count_embeddings(system, gone), count_embeddings(system, kept)) == (0, 1)
