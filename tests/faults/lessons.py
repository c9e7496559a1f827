"""Samples, requests and candidates for a rig's models, made in the rows; files where a row needs them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pgvector import HalfVector
from sqlalchemy import func, select

from backtalk import failpoints, sweeper, triggers
from backtalk.callers import CLI
from backtalk.golden import write_golden
from backtalk.heads import Head
from backtalk.images import decode, to_input
from backtalk.ledger import append_entry as append_entry  # noqa: PLC0414  # rows of a ledger, for tests
from backtalk.runtime import Backbone
from backtalk.states import RunKind, RunState, VersionState
from backtalk.store import write_sums
from backtalk.system import System
from backtalk.tables import Embedding, Model, Run, Version
from backtalk.trainers import Trainer
from tests import factories
from tests.served import make_jpeg


def get_model(system: System) -> Model:
    """The only one."""
    with system.db.reading() as session:
        return session.scalars(select(Model)).one()


def teach(system: System, per_label: int = 4) -> None:
    """Base samples with stored embeddings: enough for a run to ask a trainer to fit."""
    draw = np.random.default_rng(0)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        version = session.scalars(select(Version).where(Version.number == model.live_version)).one()
        width = Head.load(system.versions.resolve(version.path) / "head.npz").weights.shape[1]
        for label in model.labels * per_label:
            sample = factories.make_sample(session, model, label=label)
            vector = HalfVector(draw.normal(size=width).astype(np.float16))
            session.add(
                Embedding(image_id=sample.image_id, backbone_digest=version.backbone_digest, vector=vector)
            )


def give_golden(system: System, number: int = 20) -> None:
    """Golden images, for runs whose candidate a real trainer verifies."""
    model = get_model(system)
    with system.db.reading() as session:
        query = select(Version).where(Version.number == model.live_version)
        digest = session.scalars(query).one().backbone_digest
    size = Backbone(system.versions.backbone_dir(digest), 1).input_size
    pictures = [make_jpeg(seed) for seed in range(1000, 1000 + number)]
    inputs = np.stack([to_input(decode(picture).pixels, size) for picture in pictures])
    write_golden(system.versions.golden_path(model.name), inputs, pictures)


def request_run(system: System) -> Run:
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        return triggers.request_run(session, model=model, kind=RunKind.HEAD, caller=CLI)


def reload(system: System, run: Run) -> Run:
    with system.db.reading() as session:
        return session.get_one(Run, run.id)


def ring_again(system: System, run: Run) -> None:
    """What the sweeper does once a run has waited long enough."""
    with system.db.transaction() as session:
        session.get_one(Run, run.id).heartbeat_at = func.now() - func.make_interval(0, 0, 0, 0, 1)
    with system.db.transaction() as session:
        assert sweeper.sweep_runs(session, system.settings) == 1


def list_leftovers(system: System) -> list[str]:
    root = system.versions.root
    return [str(p.relative_to(root)) for p in [*root.glob("*/.candidates/*"), *root.glob(".jobs/*")]]


def add_candidate(system: System, number: int, *, files_of: int | None = None, **values: Any) -> Run:
    """A candidate whose run has passed the gate and waits for its promotion; of a person, unless said.

    Its files are a random head, or a copy of version `files_of`.
    """
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        champion = session.scalars(select(Version).where(Version.number == 1)).one()
        given = {
            "state": RunState.PROMOTING,
            "version": number,
            "verdict": "passed",
            "reason": "Better.",
            "judged_generation": model.generation,
            "base_version": 1,
            "attempt": 1,
            "fence": 1,
        } | values
        run = factories.make_run(session, model, **given)
        path = system.versions.candidate_path(model.name, run.id, 1)
        folder = system.versions.resolve(path)
        if files_of is not None:
            shutil.copytree(system.versions.resolve(f"{model.name}/{files_of}"), folder)
            digest = champion.artefact_digest
        else:
            digest = write_head(
                folder, Head.load(system.versions.resolve(champion.path) / "head.npz"), number
            )
        old = session.scalars(select(Version).where(Version.number == number)).one_or_none()
        if old is not None:  # the template's own: its number is taken over
            shutil.rmtree(system.versions.resolve(old.path))
            session.delete(old)
            session.flush()
        factories.make_version(
            session,
            model,
            number,
            VersionState.CANDIDATE,
            backbone_digest=champion.backbone_digest,
            artefact_digest=digest,
            path=path,
            run_id=run.id,
            parent=1,
        )
        model.next_version = max(model.next_version, number + 1)
        return run


def write_head(folder: Path, like: Head, seed: int) -> str:
    """Files of a version with a head of its own; returns the artefact's digest."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    Head(
        weights=draw.normal(0, 2, like.weights.shape).astype(np.float32),
        bias=like.bias,
        temperature=1.0,
        labels=like.labels,
        backbone_digest=like.backbone_digest,
    ).save(folder / "head.npz")
    (folder / "card.json").write_text(f'{{"version": {seed}}}\n')
    return write_sums(folder)


def end_fitting(monkeypatch: pytest.MonkeyPatch, ending: int) -> None:
    """Every trainer gets this signal when it is asked to fit."""
    import os

    call = Trainer.call

    def ended(self: Trainer, command: dict[str, Any], *args: Any, **values: Any) -> dict[str, Any]:
        if command["do"] == "fit":
            os.kill(self.pid, ending)
        return call(self, command, *args, **values)

    monkeypatch.setattr(Trainer, "call", ended)


@contextmanager
def armed(orders: str, log: Path | None = None) -> Iterator[None]:
    """Failpoints in the test's own process, for a while. Hits go on to be logged where they were before."""
    before = failpoints._armed
    failpoints.arm(orders, log or (before._log if before else None))
    try:
        yield
    finally:
        failpoints._armed = before
