"""Many samples in little time: rows as the use cases would have written them, without the pixels."""

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from backtalk import images
from backtalk.db import new_id
from backtalk.embeddings import save_embeddings
from backtalk.runtime import Backbone
from backtalk.states import Origin, Side, Split
from backtalk.system import System
from backtalk.tables import GroupMember, Image, ImageGroup, Model, Sample, Version
from demo.cells import Cell

_SIDES = (*[Side.TRAIN] * 7, Side.VALIDATION, *[Side.EVAL] * 2)
_SPLITS = {Side.TRAIN: Split.TRAIN, Side.VALIDATION: Split.VALIDATION, Side.EVAL: Split.HOLDOUT}
_NOISE = 0.3  # of each dimension's own standard deviation


def fill_model(system: System, name: str, cells: Sequence[Cell], total: int) -> None:
    """Bring the model to `total` samples: noisy copies of the cells' embeddings, each an image of its own."""
    with system.db.transaction() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        live = session.scalars(
            select(Version).where(Version.model_id == model.id, Version.number == model.live_version)
        ).one()
        have = session.scalar(select(func.count()).where(Sample.model_id == model.id)) or 0
        seen = _embed(system, live.backbone_digest, tuple(cells))
        chosen = np.random.default_rng(7).integers(len(cells), size=max(total - have, 0))
        vectors = seen[chosen] + _noise(seen, len(chosen))
        image_ids = _write_images(session, model, len(chosen))
        save_embeddings(session, live.backbone_digest, image_ids, vectors.astype(np.float16))
        session.execute(
            insert(Sample),
            [
                {
                    "model_id": model.id,
                    "image_id": image_id,
                    "label": cells[which].label,
                    "split": _SPLITS[_SIDES[row % len(_SIDES)]],
                    "origin": Origin.AUDIT,
                    "by_person": True,
                }
                for row, (image_id, which) in enumerate(zip(image_ids, chosen, strict=True))
            ],
        )


def _write_images(session: Session, model: Model, n: int) -> list[UUID]:
    """Image rows without pixels, each in a group of its own."""
    image_ids = [new_id() for _ in range(n)]
    rows: list[dict[str, Any]] = [
        {
            "id": image_id,
            "pixels_sha256": secrets.token_hex(32),
            "perceptual_hash": secrets.randbits(63),
            "width": 300,
            "height": 300,
            "byte_size": 0,
        }
        for image_id in image_ids
    ]
    session.execute(insert(Image), rows)
    made = session.execute(
        insert(ImageGroup).returning(ImageGroup.id, ImageGroup.first_image_id),
        [
            {
                "model_id": model.id,
                "first_image_id": row["id"],
                "perceptual_hash": row["perceptual_hash"],
                "side": _SIDES[number % len(_SIDES)],
            }
            for number, row in enumerate(rows)
        ],
    ).all()
    session.execute(
        insert(GroupMember),
        [{"model_id": model.id, "image_id": group.first_image_id, "group_id": group.id} for group in made],
    )
    return image_ids


@cache
def _embed(system: System, digest: str, cells: tuple[Cell, ...]) -> NDArray[np.float32]:
    backbone = Backbone(system.versions.backbone_dir(digest), interpreters=1)
    pixels = (images.decode(cell.read()).pixels for cell in cells)
    inputs = (images.to_input(one, backbone.input_size)[None] for one in pixels)
    return np.concatenate([backbone.embed(one) for one in inputs]).astype(np.float32)


def _noise(vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    spread = _NOISE * vectors.std(axis=0)
    drawn = np.random.default_rng(8).normal(size=(n, vectors.shape[1]))
    return np.asarray(drawn * spread, np.float32)
