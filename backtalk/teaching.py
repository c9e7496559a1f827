"""What teachers say of the images that a student learns from: one version, or the mean of several."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backtalk.champions import get_model, get_version, locate
from backtalk.embeddings import embed_missing, load_embeddings
from backtalk.errors import InvalidRecipe, ModelNotFound, VersionNotFound
from backtalk.heads import Head
from backtalk.recipes import Recipe
from backtalk.runtime import Backbone
from backtalk.states import VersionState
from backtalk.system import System
from backtalk.tables import Model, Version


def name_teachers(recipe: Recipe, champion: int) -> list[str]:
    """Who teaches by this recipe; the champion by its number, since a later attempt may find another live."""
    names = recipe.distil.teachers if recipe.distil else ("champion",)
    return [str(champion) if name == "champion" else name for name in names]


def ask_teachers(
    session: Session, system: System, model: Model, names: Sequence[str], image_ids: Sequence[UUID]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The mean of the teachers' scores (N, C), in the order of the model's labels, and which rows count (N,).

    An image counts where every teacher has an embedding of it, or its pixels are kept so that it gets one.

    Raises:
        InvalidRecipe: there is no such teacher, it is quarantined, or it knows other labels.
    """
    heads = [_find_head(session, system, model, name) for name in names]
    asked = np.ones(len(image_ids), np.bool_)
    for digest in {head.backbone_digest for head, _ in heads}:
        backbone = Backbone(system.versions.backbone_dir(digest), system.settings.inference_threads)
        unseen = set(embed_missing(session, system.images, backbone, image_ids))
        asked &= np.array([i not in unseen for i in image_ids], np.bool_)
    ids = [image_id for image_id, kept in zip(image_ids, asked, strict=True) if kept]
    total = np.zeros((len(image_ids), len(model.labels)), np.float32)
    for head, order in heads:
        vectors = load_embeddings(session, head.backbone_digest, ids, head.weights.shape[1])
        total[asked] += head.scores(vectors)[:, order] / np.float32(len(heads))
    return total, asked


def list_backbones(session: Session, system: System, model: Model, names: Sequence[str]) -> set[str]:
    """Digests of what teachers see with. Raises InvalidRecipe, as `ask_teachers` does."""
    return {_find_head(session, system, model, name)[0].backbone_digest for name in names}


def _find_head(session: Session, system: System, model: Model, name: str) -> tuple[Head, list[int]]:
    """A teacher's head, and where in its scores our labels are."""
    version = _find_version(session, model, name)
    if version.state == VersionState.QUARANTINED:
        raise InvalidRecipe(f"Teacher {name!r} is quarantined: its files are not what was verified.")
    folder = locate(system, version)
    if not (folder / "head.npz").is_file():
        raise InvalidRecipe(f"Teacher {name!r} was pruned: its files are gone.")
    head = Head.load(folder / "head.npz")
    if set(head.labels) != set(model.labels):
        raise InvalidRecipe(
            f"Teacher {name!r} knows other labels than {model.name} ({', '.join(head.labels)}): it cannot "
            "teach."
        )
    return head, [head.labels.index(label) for label in model.labels]


def _find_version(session: Session, model: Model, name: str) -> Version:
    owner, _, number = name.rpartition("/")
    try:
        return get_version(session, get_model(session, owner) if owner else model, int(number))
    except (ModelNotFound, VersionNotFound) as error:
        raise InvalidRecipe(f"Teacher {name!r}: {error.message}") from None
