"""The long half of a full run: has a trainer move the backbone, and embeds everything anew with it.

What it takes over from an attempt that broke off (pixels, checkpoints) lies in `.training/<run>/` of the
store, until the run ends.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk import runs
from backtalk.admission import weigh_repeats
from backtalk.boards import find_board, name_board
from backtalk.champions import get_champion, locate
from backtalk.embeddings import embed_missing, find_missing, load_embeddings
from backtalk.heads import Head
from backtalk.recipes import Recipe, load_recipe
from backtalk.runs import Claim
from backtalk.runtime import Backbone
from backtalk.snapshots import find_taught, get_snapshot, list_taught, take_snapshot
from backtalk.states import Split
from backtalk.system import System
from backtalk.tables import Backbone as BackboneRow
from backtalk.tables import Image, Model, Run, Sample, Snapshot, Version
from backtalk.trainers import Trainer

EMBED_AT_ONCE = 64  # images, then they are saved and progress is told

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Tuned:
    """A backbone that was moved, and how."""

    digest: str
    facts: dict[str, Any]


def get_work_folder(store: Path, run_id: UUID) -> Path:
    """Where a full run keeps what its next attempt may take over."""
    return store / ".training" / str(run_id)


def clear_work(store: Path, run_id: UUID) -> None:
    """The run has ended: nobody takes anything over. Fine if there is nothing."""
    shutil.rmtree(get_work_folder(store, run_id), ignore_errors=True)


def tune_backbone(system: System, claim: Claim, report: Report) -> Tuned:
    """Move the backbone by the run's recipe, and embed all samples with the new one.

    Raises:
        UnknownRecipe, InvalidRecipe, SnapshotUnusable
        TrainerFailed: also TrainingDiverged and OutOfRoom.
    """
    with system.db.transaction() as session:
        recipe = _resolve_recipe(session, system, claim)
        _freeze(session, claim)
    lesson = get_work_folder(system.versions.root, claim.run_id) / f"lesson-{claim.fence}"
    with system.db.transaction() as session:
        _write_lesson(session, system, claim, recipe, lesson)
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
    return Tuned(made["digest"], result["tuning"] | {"recipe": recipe.model_dump(mode="json")})


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
    """The snapshot of the first attempt stays that of the run's backbone."""
    if runs.get_run(session, claim.run_id).tuned_on is not None:
        return
    model = session.get_one(Model, claim.model_id)
    frozen = take_snapshot(session, model, get_champion(session, model.id).backbone_digest)
    runs.update_claimed(
        session,
        claim,
        tuned_on=frozen.snapshot.digest,
        snapshot_digest=frozen.snapshot.digest,
        decision_cut=frozen.decision_cut,
    )


def _write_lesson(session: Session, system: System, claim: Claim, recipe: Recipe, folder: Path) -> None:
    """What `backtalk.learn.lesson` reads: training images, then validation, then those to stay right."""
    run = session.get_one(Run, claim.run_id, populate_existing=True)
    model = session.get_one(Model, claim.model_id)
    champion = get_champion(session, model.id)
    snapshot = get_snapshot(session, model.id, run.tuned_on)
    rows = list_taught(session, snapshot)
    parts = {split: [r for r in rows if r.split == split] for split in (Split.TRAIN, Split.VALIDATION)}
    train, validation = parts[Split.TRAIN], parts[Split.VALIDATION]
    stay, scores = _ask_champion(session, system, champion, snapshot)
    kept = sum(row.store_key is not None for row in rows)
    board = find_board(system, name_board(model.name, run.kind, run.id, run.created_at))
    content = {
        "labels": list(model.labels),
        "recipe": recipe.model_dump(mode="json"),
        "seed": run.seed,
        "threads": recipe.threads,
        "fence": claim.fence,
        "snapshot_digest": snapshot.digest,
        "start_backbone": str(_find_start(session, system, model.id, champion, recipe)),
        "store": str(system.versions.root),
        "images": str(system.images.root),
        "work": str(folder.parent),
        "sources": [[r.store_key, r.orientation] for r in [*train, *validation, *stay] if r.store_key],
        "left_out": len(snapshot.sample_ids) - kept,
        "board": str(board) if board else None,
    }
    train, validation = ([r for r in part if r.store_key] for part in (train, validation))
    known = find_taught(session, model.id, champion.number)
    index = {label: i for i, label in enumerate(model.labels)}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "targets.npz",
        train_y=np.array([index[r.label] for r in train], np.int32),
        train_seen=np.array([r.image_id in known for r in train], np.bool_),
        train_weight=np.array(weigh_repeats((r.group_id, r.origin) for r in train), np.float32),
        validation_y=np.array([index[r.label] for r in validation], np.int32),
        stay=scores,
    )
    (folder / "lesson.json").write_text(json.dumps(content), encoding="utf-8")


def _ask_champion(
    session: Session, system: System, champion: Version, snapshot: Snapshot
) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Images that nobody complained about, with the champion's scores: what is to stay right."""
    head = Head.load(locate(system, champion) / "head.npz")
    missing = set(find_missing(session, champion.backbone_digest, snapshot.stay_right_ids))
    ids = [i for i in snapshot.stay_right_ids if i not in missing]
    found = session.execute(
        select(Image.id, Image.store_key, Image.orientation)
        .where(Image.id.in_(ids), Image.store_key.is_not(None))
        .order_by(Image.pixels_sha256)
    ).all()
    width = head.weights.shape[1]
    vectors = load_embeddings(session, champion.backbone_digest, [r.id for r in found], width)
    return list(found), head.scores(vectors)


def _find_start(session: Session, system: System, model_id: int, champion: Version, recipe: Recipe) -> Path:
    """The backbone to begin with: the one that version 1 has, whose weights are the pretrained ones."""
    digest = champion.backbone_digest
    if recipe.start == "pretrained":
        digest = session.scalars(
            select(Version.backbone_digest).where(Version.model_id == model_id, Version.number == 1)
        ).one()
    return system.versions.backbone_dir(digest)


def _embed_all(system: System, model_id: int, digest: str, report: Report) -> None:
    """Every live sample, judging sets too, so that the judge has next to nothing left to do."""
    with system.db.reading() as session:
        ids = list(
            session.scalars(
                select(Sample.image_id).where(Sample.model_id == model_id, Sample.retracted_at.is_(None))
            )
        )
        missing = find_missing(session, digest, ids)
    backbone = Backbone(system.versions.backbone_dir(digest), interpreters=1)
    for start in range(0, len(missing), EMBED_AT_ONCE):
        with system.db.transaction() as session:
            embed_missing(session, system.images, backbone, missing[start : start + EMBED_AT_ONCE])
        done = min(start + EMBED_AT_ONCE, len(missing))
        report({"part": "embed", "fraction": round(done / len(missing), 4)})
