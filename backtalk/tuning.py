"""The long half of a full run: has a trainer move the backbone, and embeds everything anew with it.

What it takes over from an attempt that broke off (pixels, checkpoints) lies in `.training/<run>/` of the
store, until the run ends.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk import runs
from backtalk.champions import get_champion, get_version
from backtalk.embeddings import embed_missing, find_missing
from backtalk.errors import Superseded
from backtalk.lessonfiles import write_lesson
from backtalk.recipes import Recipe, load_recipe
from backtalk.runs import Claim
from backtalk.runtime import Backbone
from backtalk.snapshots import get_snapshot, list_taught, take_snapshot
from backtalk.system import System
from backtalk.tables import Backbone as BackboneRow
from backtalk.tables import Model, Sample, Version
from backtalk.teaching import list_backbones, name_teachers
from backtalk.trainers import Trainer

EMBED_AT_ONCE = 64  # images, then they are saved and progress is told

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Tuned:
    """A backbone that was moved, and how."""

    digest: str
    facts: dict[str, Any]
    quantised_from: str | None  # digest of the float backbone that it is an 8-bit copy of


def get_work_folder(store: Path, run_id: UUID) -> Path:
    """Where a full run keeps what its next attempt may take over."""
    return store / ".training" / str(run_id)


def clear_work(store: Path, run_id: UUID) -> None:
    """The run has ended: nobody takes anything over. Fine if there is nothing."""
    shutil.rmtree(get_work_folder(store, run_id), ignore_errors=True)


def tune_backbone(system: System, claim: Claim, report: Report) -> Tuned:
    """Move the backbone by the run's recipe, and embed all samples with the new one.

    Raises:
        UnknownRecipe, InvalidRecipe, SnapshotUnusable, WeightsRefused
        Superseded: an earlier attempt began from a backbone that is the champion's no longer.
        TrainerFailed: also TrainingDiverged and OutOfRoom.
    """
    with system.db.transaction() as session:
        recipe = _resolve_recipe(session, system, claim)
        _freeze(session, claim)
        if recipe.method == "quantise":
            _check_start(session, claim)
    lesson = get_work_folder(system.versions.root, claim.run_id) / f"lesson-{claim.fence}"
    student = _prepare_student(system, recipe, report)
    _embed_for_teachers(system, claim, recipe, report)
    with system.db.transaction() as session:
        write_lesson(session, system, claim, recipe, lesson, student)
    trainer = Trainer.start_tuner()
    try:
        result = trainer.call({"do": "tune", "lesson": str(lesson)}, report)
    finally:
        trainer.close()
    made = result["backbone"]
    with system.db.transaction() as session:
        runs.beat(session, claim, {}, lease_s=system.settings.lease_s)  # still ours
        session.execute(insert(BackboneRow).values(**made).on_conflict_do_nothing())
    _embed_all(system, claim.model_id, made["digest"], report)
    facts = result["tuning"] | {"recipe": recipe.model_dump(mode="json")}
    return Tuned(made["digest"], facts, made["quantised_from"])


def check_parent(champion: Version, quantised_from: str | None) -> None:
    """An 8-bit version takes over its champion's SavedModel, and is judged to be equal to it.

    Raises:
        Superseded: what it is a copy of is another backbone than the champion's.
    """
    if quantised_from not in (None, champion.backbone_digest):
        raise Superseded(
            f"The backbone changed with version {champion.number} while its 8-bit copy was being made."
        )


def _resolve_recipe(session: Session, system: System, claim: Claim) -> Recipe:
    """As the first attempt found it: a file that changes in between changes no run."""
    run = runs.get_run(session, claim.run_id)
    said = run.recipe or {"name": "default"}
    if "content" in said:
        return Recipe.parse(said["name"], said["content"])
    recipe = load_recipe(said["name"], system.settings.recipes)
    if recipe.threads is None:
        recipe = recipe.model_copy(update={"threads": os.cpu_count() or 1})
    content = {"name": said["name"], "content": recipe.model_dump(mode="json")}
    runs.update_claimed(session, claim, recipe=content)
    return recipe


def _freeze(session: Session, claim: Claim) -> None:
    """Snapshot and champion of the first attempt stay those of the run's backbone: what was begun under one
    teacher is not to be ended under another."""
    if runs.get_run(session, claim.run_id).tuned_from is not None:
        return
    model = session.get_one(Model, claim.model_id)
    champion = get_champion(session, model.id)
    frozen = take_snapshot(session, model, champion.backbone_digest)
    runs.update_claimed(
        session,
        claim,
        tuned_on=frozen.snapshot.digest,
        tuned_from=champion.number,
        snapshot_digest=frozen.snapshot.digest,
        decision_cut=frozen.decision_cut,
    )


def _check_start(session: Session, claim: Claim) -> None:
    """Before the minutes that it takes, too. Raises Superseded."""
    model = session.get_one(Model, claim.model_id)
    begun = get_version(session, model, runs.get_run(session, claim.run_id).tuned_from)
    check_parent(get_champion(session, model.id), begun.backbone_digest)


def _prepare_student(system: System, recipe: Recipe, report: Report) -> str | None:
    """The digest of the backbone that a distillation begins with, which is in the store then."""
    if recipe.distil is None:
        return None
    wanted = recipe.distil
    command = {"do": "prepare_backbone", "name": wanted.student, "store": str(system.versions.root)}
    trainer = Trainer.start()
    try:
        made = trainer.call(command | {"input_size": wanted.input_size, "weights": wanted.weights}, report)
    finally:
        trainer.close()
    with system.db.transaction() as session:
        row = {"name": wanted.student} | made
        session.execute(insert(BackboneRow).values(**row).on_conflict_do_nothing())
    return str(made["digest"])


def _embed_for_teachers(system: System, claim: Claim, recipe: Recipe, report: Report) -> None:
    """What a distillation asks about, by all that teach. Here progress is told, so it may take its time."""
    if recipe.distil is None:
        return
    with system.db.reading() as session:
        model = session.get_one(Model, claim.model_id)
        run = runs.get_run(session, claim.run_id)
        snapshot = get_snapshot(session, model.id, run.tuned_on)
        ids = [row.image_id for row in list_taught(session, snapshot)] + list(snapshot.stay_right_ids)
        assert run.tuned_from is not None  # frozen before
        digests = list_backbones(session, system, model, name_teachers(recipe, run.tuned_from))
    for digest in sorted(digests):
        _embed(system, ids, digest, report)


def _embed_all(system: System, model_id: int, digest: str, report: Report) -> None:
    """Every live sample, judging sets too, so that the judge has next to nothing left to do."""
    with system.db.reading() as session:
        ids = list(
            session.scalars(
                select(Sample.image_id).where(Sample.model_id == model_id, Sample.retracted_at.is_(None))
            )
        )
    _embed(system, ids, digest, report)


def _embed(system: System, ids: list[UUID], digest: str, report: Report) -> None:
    with system.db.reading() as session:
        missing = find_missing(session, digest, ids)
    backbone = Backbone(system.versions.backbone_dir(digest), interpreters=1)
    for start in range(0, len(missing), EMBED_AT_ONCE):
        with system.db.transaction() as session:
            embed_missing(session, system.images, backbone, missing[start : start + EMBED_AT_ONCE])
        done = min(start + EMBED_AT_ONCE, len(missing))
        report({"part": "embed", "fraction": round(done / len(missing), 4)})
