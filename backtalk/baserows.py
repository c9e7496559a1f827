"""A base folder's rows: images, embeddings, groups with their sides, and samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk.basefolder import BaseImage
from backtalk.db import new_id
from backtalk.embeddings import save_embeddings
from backtalk.groups import draw_side, near_indices
from backtalk.states import Origin, Side, Split
from backtalk.tables import Backbone, GroupMember, Image, ImageGroup, Model, Sample


@dataclass(frozen=True)
class Grouping:
    """For each image the index of its group's first image; −1 where it straddles."""

    first: list[int]
    sides: dict[int, Side]  # by the index of the first image

    def side(self, image: int) -> Side | None:
        return self.sides.get(self.first[image])


def group_images(images: list[BaseImage], salt: bytes, eval_share: float) -> Grouping:
    """Near-duplicates join the group of their first image; sides are drawn by keyed hash."""
    first: list[int] = []
    sides: dict[int, Side] = {}
    hashes = np.zeros(0, np.int64)
    leaders: list[int] = []
    for i, image in enumerate(images):
        near = [leaders[j] for j in near_indices(hashes, image.perceptual_hash)]
        if not near:
            first.append(i)
            sides[i] = draw_side(salt, image.pixels_sha256, eval_share)
            leaders.append(i)
            hashes = np.append(hashes, np.int64(image.perceptual_hash))
        else:
            first.append(near[0] if len({sides[j] for j in near}) == 1 else -1)
    return Grouping(first, sides)


def split_of(side: Side | None) -> Split | None:
    return {
        Side.TRAIN: Split.TRAIN,
        Side.VALIDATION: Split.VALIDATION,
        Side.EVAL: Split.HOLDOUT,
        None: None,
    }[side]


def insert_base(
    session: Session,
    model: Model,
    images: list[BaseImage],
    grouping: Grouping,
    embeddings: NDArray[np.float16],
    described: dict[str, Any],
) -> None:
    """Put a new model's rows in; `embeddings` (N, D), float16, in the order of `images`."""
    session.execute(
        insert(Backbone)
        .values(**{key: described[key] for key in ("digest", "name", "source_digest", "input_size", "width")})
        .on_conflict_do_nothing()
    )
    session.add(model)
    session.flush()
    image_ids = _insert_images(session, images)
    save_embeddings(session, described["digest"], image_ids, embeddings)
    _insert_groups(session, model.id, images, image_ids, grouping)
    _insert_samples(session, model.id, images, image_ids, grouping)


def _insert_images(session: Session, images: list[BaseImage]) -> list[UUID]:
    rows = [
        {
            "pixels_sha256": image.pixels_sha256,
            "perceptual_hash": image.perceptual_hash,
            "width": image.width,
            "height": image.height,
            "orientation": image.orientation,
            "store_key": image.store_key,
            "byte_size": image.byte_size,
        }
        for image in images
    ]
    return put_images(session, rows)


def put_images(session: Session, rows: Sequence[dict[str, Any]]) -> list[UUID]:
    """Put pictures in, each by its columns; the rows' ids, in order. One that is known here keeps its row.

    Where its pixels were dropped, that row names the file that comes now.
    """
    for start in range(0, len(rows), 1000):
        put = insert(Image).values([{"id": new_id()} | row for row in rows[start : start + 1000]])
        session.execute(
            put.on_conflict_do_update(
                index_elements=[Image.pixels_sha256],
                set_={name: put.excluded[name] for name in ("store_key", "orientation", "byte_size")},
                where=Image.store_key.is_(None) & put.excluded.store_key.is_not(None),
            )
        )
    digests = [row["pixels_sha256"] for row in rows]
    found = session.execute(
        select(Image.pixels_sha256, Image.id).where(
            Image.pixels_sha256 == any_(literal(digests, ARRAY(Text)))
        )
    )
    ids = {row.pixels_sha256: row.id for row in found}
    return [ids[digest] for digest in digests]


def _insert_groups(
    session: Session, model_id: int, images: list[BaseImage], image_ids: list[UUID], grouping: Grouping
) -> None:
    groups = {
        i: ImageGroup(
            model_id=model_id,
            first_image_id=image_ids[i],
            perceptual_hash=images[i].perceptual_hash,
            side=side,
        )
        for i, side in grouping.sides.items()
    }
    session.add_all(groups.values())
    session.flush()
    session.add_all(
        GroupMember(
            model_id=model_id, image_id=image_ids[i], group_id=groups[first].id if first >= 0 else None
        )
        for i, first in enumerate(grouping.first)
    )
    session.flush()


def _insert_samples(
    session: Session, model_id: int, images: list[BaseImage], image_ids: list[UUID], grouping: Grouping
) -> None:
    session.add_all(
        Sample(
            model_id=model_id,
            image_id=image_ids[i],
            label=image.label,
            split=split,
            origin=Origin.BASE,
            by_person=True,
        )
        for i, image in enumerate(images)
        if (split := split_of(grouping.side(i))) is not None
    )
    session.flush()
