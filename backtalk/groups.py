"""Groups of near-duplicates and the side that each was drawn to, once and for ever.

A group is what lies within `NEAR_BITS` of its *first* image: no chains, no merging. An image near groups of
different sides belongs to none and gets no sample (it straddles): learning from it would leak into the
judging sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from backtalk.db import lock_model
from backtalk.draws import draw
from backtalk.states import Side
from backtalk.tables import GroupMember, ImageGroup, Model

NEAR_BITS = 4
VALIDATION_SHARE = 0.1
TRAFFIC_EVAL_SHARE = 0.2


class Source(StrEnum):
    """Where an image came from decides how its new group is drawn."""

    TRAFFIC = "traffic"
    AUDIT = "audit"  # drawn before anybody knew whether it is right: always to the eval side


@dataclass(frozen=True)
class Candidate:
    """An image that wants a group."""

    image_id: UUID
    pixels_sha256: str
    perceptual_hash: int


@dataclass(frozen=True)
class Near:
    group_id: int
    side: Side


def base_eval_share(images: int) -> float:
    """The eval share of a base folder with so many images: enough to judge on, half at the most."""
    return min(0.5, max(0.2, 400 / max(images, 1)))


def draw_side(salt: bytes, pixels_sha256: str, eval_share: float) -> Side:
    """The side of a new group, by keyed hash of its first image."""
    drawn = draw(salt, "side", pixels_sha256)
    if drawn < eval_share:
        return Side.EVAL
    return Side.VALIDATION if drawn < eval_share + VALIDATION_SHARE else Side.TRAIN


def place_images(
    session: Session, model: Model, candidates: Sequence[Candidate], source: Source
) -> dict[UUID, Side | None]:
    """Find or make the group of each image; None for an image that straddles.

    Serialised per model, so that two near-duplicates that arrive together share a group.
    """
    lock_model(session, model.id, "groups")
    sides = _find_known(session, model.id, [c.image_id for c in candidates])
    fresh = [c for c in candidates if c.image_id not in sides]
    neighbours = _Neighbours.load(session, model.id) if len(fresh) > 1 else None
    for candidate in fresh:
        near = (
            neighbours.find(candidate.perceptual_hash)
            if neighbours
            else _find_near(session, model.id, candidate.perceptual_hash)
        )
        group = _choose(near)
        if not near:
            group = _make_group(session, model, candidate, source)
            if neighbours:
                neighbours.add(candidate.perceptual_hash, group)
        session.add(
            GroupMember(
                model_id=model.id, image_id=candidate.image_id, group_id=group.group_id if group else None
            )
        )
        sides[candidate.image_id] = group.side if group else None
    session.flush()
    return sides


@dataclass(frozen=True)
class Foreign:
    """An image that comes with its group and side from another installation."""

    image_id: UUID
    perceptual_hash: int
    group: int  # a number among those that come together
    group_hash: int  # of the first image of its group there
    side: Side


def join_groups(session: Session, model: Model, foreign: Sequence[Foreign]) -> list[UUID]:
    """Put each image into a group of the side that it comes with, near-duplicates together.

    Returns those that cannot be: they, or the first of their group, lie on or near another side here.
    Serialised per model.
    """
    lock_model(session, model.id, "groups")
    known = _find_known(session, model.id, [f.image_id for f in foreign])
    neighbours = _Neighbours.load(session, model.id)
    groups: dict[int, Near] = {}
    refused = [f.image_id for f in foreign if known.get(f.image_id, f.side) is not f.side]
    for one in foreign:
        if one.image_id in known:
            continue
        near = neighbours.find(one.group_hash)
        if {n.side for n in [*near, *neighbours.find(one.perceptual_hash)]} - {one.side}:
            refused.append(one.image_id)
            continue
        if one.group not in groups:
            groups[one.group] = _choose(near) or _add_group(session, model.id, one)
        if groups[one.group].side is not one.side:
            refused.append(one.image_id)
            continue
        member = GroupMember(model_id=model.id, image_id=one.image_id, group_id=groups[one.group].group_id)
        session.add(member)
    session.flush()
    return refused


def _add_group(session: Session, model_id: int, first: Foreign) -> Near:
    group = ImageGroup(
        model_id=model_id,
        first_image_id=first.image_id,
        perceptual_hash=first.group_hash,
        side=first.side,
    )
    session.add(group)
    session.flush()
    return Near(group.id, first.side)


def _choose(near: Sequence[Near]) -> Near | None:
    """The oldest near group, or none where the sides differ."""
    if len({one.side for one in near}) != 1:
        return None
    return min(near, key=lambda one: one.group_id)


def _make_group(session: Session, model: Model, candidate: Candidate, source: Source) -> Near:
    side = (
        Side.EVAL
        if source is Source.AUDIT
        else draw_side(model.salt, candidate.pixels_sha256, TRAFFIC_EVAL_SHARE)
    )
    group = ImageGroup(
        model_id=model.id,
        first_image_id=candidate.image_id,
        perceptual_hash=candidate.perceptual_hash,
        side=side,
    )
    session.add(group)
    session.flush()
    return Near(group.id, side)


def _find_known(session: Session, model_id: int, image_ids: Iterable[UUID]) -> dict[UUID, Side | None]:
    rows = session.execute(
        select(GroupMember.image_id, ImageGroup.side)
        .outerjoin(ImageGroup, ImageGroup.id == GroupMember.group_id)
        .where(GroupMember.model_id == model_id, GroupMember.image_id.in_(list(image_ids)))
    )
    return {image_id: Side(side) if side else None for image_id, side in rows}


def _find_near(session: Session, model_id: int, perceptual_hash: int) -> list[Near]:
    rows = session.execute(
        text(
            "SELECT id, side FROM image_groups WHERE model_id = :model"
            " AND bit_count((perceptual_hash # :hash)::bit(64)) <= :bits ORDER BY id"
        ),
        {"model": model_id, "hash": perceptual_hash, "bits": NEAR_BITS},
    )
    return [Near(row.id, Side(row.side)) for row in rows]


class _Neighbours:
    """All groups of a model in memory, for placing many images at once."""

    def __init__(self, hashes: Sequence[int], groups: list[Near]) -> None:
        self._hashes = np.array(hashes, np.int64)
        self._groups = groups

    @classmethod
    def load(cls, session: Session, model_id: int) -> "_Neighbours":
        rows = session.execute(
            select(ImageGroup.id, ImageGroup.side, ImageGroup.perceptual_hash)
            .where(ImageGroup.model_id == model_id, ImageGroup.perceptual_hash.is_not(None))
            .order_by(ImageGroup.id)
        ).all()
        return cls([r.perceptual_hash for r in rows], [Near(r.id, Side(r.side)) for r in rows])

    def find(self, perceptual_hash: int) -> list[Near]:
        return [self._groups[i] for i in near_indices(self._hashes, perceptual_hash)]

    def add(self, perceptual_hash: int, group: Near | None) -> None:
        if group is not None:
            self._hashes = np.append(self._hashes, np.int64(perceptual_hash))
            self._groups.append(group)


def near_indices(hashes: NDArray[np.int64], perceptual_hash: int) -> list[int]:
    """Indices of the hashes (N,), int64, within `NEAR_BITS` of one, ascending."""
    distances = np.bitwise_count(np.bitwise_xor(hashes, np.int64(perceptual_hash)).view(np.uint64))
    return [int(i) for i in np.flatnonzero(distances <= NEAR_BITS)]
