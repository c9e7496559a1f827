"""Writes what a full run learns from: `lesson.json` and `targets.npz`, read by `backtalk.learn.lesson`."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk.admission import weigh_repeats
from backtalk.boards import find_board, name_board
from backtalk.champions import get_version
from backtalk.recipes import Recipe
from backtalk.runs import Claim
from backtalk.snapshots import Taught, find_taught, get_snapshot, list_taught
from backtalk.states import Split
from backtalk.system import System
from backtalk.tables import Image, Model, Run, Snapshot, Version
from backtalk.teaching import ask_teachers, name_teachers


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Rows with their store keys, and what they are to be answered with."""

    train: Sequence[Taught]
    validation: Sequence[Taught]
    stay: Sequence[Any]  # images without a label
    stay_scores: NDArray[np.float32]  # (M, C)
    train_soft: NDArray[np.float32] | None = None  # (T, C), of a distillation


def write_lesson(
    session: Session, system: System, claim: Claim, recipe: Recipe, folder: Path, student: str | None
) -> None:
    """Training images, then validation, then those without a label; the same at each attempt of a run.

    Args:
        student: digest of the backbone that a distillation begins with.

    Raises:
        InvalidRecipe: a teacher is not there, is quarantined, or knows other labels.
    """
    run = session.get_one(Run, claim.run_id, populate_existing=True)
    model = session.get_one(Model, claim.model_id)
    champion = get_version(session, model, run.tuned_from)
    snapshot = get_snapshot(session, model.id, run.tuned_on)
    taught = list_taught(session, snapshot)
    kept = [row for row in taught if row.store_key]
    pictures = _collect(session, system, model, snapshot, kept, recipe, champion)
    board = find_board(system, name_board(model.name, run.kind, run.id, run.created_at))
    rows = [*pictures.train, *pictures.validation, *pictures.stay]
    start = student or _find_start(session, model.id, champion, recipe)
    content = {
        "labels": list(model.labels),
        "recipe": recipe.model_dump(mode="json"),
        "seed": run.seed,
        "threads": recipe.threads,
        "fence": claim.fence,
        "snapshot_digest": snapshot.digest,
        "start_backbone": str(system.versions.backbone_dir(start)),
        "store": str(system.versions.root),
        "images": str(system.images.root),
        "work": str(folder.parent),
        "sources": [[row.store_key, row.orientation] for row in rows],
        "left_out": len(taught) - len(kept),  # their pixels are gone
        "board": str(board) if board else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    targets: dict[str, Any] = _targets(session, model, champion, pictures)
    np.savez(folder / "targets.npz", **targets)
    (folder / "lesson.json").write_text(json.dumps(content), encoding="utf-8")


def _targets(
    session: Session, model: Model, champion: Version, pictures: _Pictures
) -> dict[str, NDArray[Any]]:
    known = find_taught(session, model.id, champion.number)
    index = {label: i for i, label in enumerate(model.labels)}
    train, validation = pictures.train, pictures.validation
    soft = {} if pictures.train_soft is None else {"train_soft": pictures.train_soft}
    return soft | {
        "train_y": np.array([index[row.label] for row in train], np.int32),
        "train_seen": np.array([row.image_id in known for row in train], np.bool_),
        "train_weight": np.array(weigh_repeats((row.group_id, row.origin) for row in train), np.float32),
        "validation_y": np.array([index[row.label] for row in validation], np.int32),
        "stay": pictures.stay_scores,
    }


def _collect(
    session: Session,
    system: System,
    model: Model,
    snapshot: Snapshot,
    rows: Sequence[Taught],
    recipe: Recipe,
    champion: Version,
) -> _Pictures:
    train, validation = ([r for r in rows if r.split == s] for s in (Split.TRAIN, Split.VALIDATION))
    nobody = np.zeros((0, len(model.labels)), np.float32)
    if recipe.method == "quantise":  # ranges are measured on some images, and nothing is learned
        return _Pictures(_draw_evenly(train, recipe.quantise.images), [], [], nobody)
    stay = _list_silent(session, snapshot)
    teachers = name_teachers(recipe, champion.number)
    said, asked = ask_teachers(session, system, model, teachers, [row.id for row in stay])
    stay = [row for row, kept in zip(stay, asked, strict=True) if kept]
    if recipe.distil is None:
        return _Pictures(train, validation, stay, said[asked])
    ids = [row.image_id for row in train]
    soft = _mix(model, train, *ask_teachers(session, system, model, teachers, ids), recipe.distil.share)
    return _Pictures(train, validation, stay, said[asked], soft)


def _mix(
    model: Model,
    train: Sequence[Taught],
    said: NDArray[np.float32],
    asked: NDArray[np.bool_],
    share: float,
) -> NDArray[np.float32]:
    """Targets (T, C): the label, and the teachers' scores by their share (Hinton et al., 2015, with the
    temperature that the teachers' validation images chose)."""
    labels = np.array([model.labels.index(row.label) for row in train], np.int64)
    hard = np.eye(len(model.labels), dtype=np.float32)[labels]
    weight = np.where(asked, share, 0.0)[:, None]
    return ((1 - weight) * hard + weight * said).astype(np.float32)


def _list_silent(session: Session, snapshot: Snapshot) -> list[Any]:
    """Images that nobody complained about and whose pixels are kept."""
    found = session.execute(
        select(Image.id, Image.store_key, Image.orientation)
        .where(Image.id.in_(snapshot.stay_right_ids), Image.store_key.is_not(None))
        .order_by(Image.pixels_sha256)
    )
    return list(found.all())


def _draw_evenly(rows: Sequence[Taught], most: int) -> list[Taught]:
    """Of each label in turn, in the order of their pixels, which is as good as drawn."""
    by_label: defaultdict[str, list[Taught]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    turns = chain.from_iterable(zip_longest(*by_label.values()))
    return [row for row in turns if row is not None][:most]


def _find_start(session: Session, model_id: int, champion: Version, recipe: Recipe) -> str:
    """The backbone to begin with. Version 1 has the one whose weights are the pretrained ones."""
    if recipe.start == "champion" or recipe.method == "quantise":
        return champion.backbone_digest
    return session.scalars(
        select(Version.backbone_digest).where(Version.model_id == model_id, Version.number == 1)
    ).one()
