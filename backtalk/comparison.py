"""Any two versions on the same holdout, from stored embeddings: what one fixes and what it breaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from backtalk.answers import Answers, Pairs
from backtalk.dataset import list_split
from backtalk.embeddings import find_missing, load_embeddings
from backtalk.evidence import load_head, score_seen
from backtalk.states import Split
from backtalk.system import System
from backtalk.tables import Model, Version


@dataclass(frozen=True, eq=False)
class Comparison:
    """In `answers`, `base` stands where the gate has the champion and `other` where it has the candidate."""

    base: int
    other: int
    answers: Answers
    pairs: Pairs
    left_out: int  # holdout images that the backbone of one of the two has not seen


@dataclass(frozen=True)
class Saying:
    """What a version says about an image."""

    label: str
    score: float


def compare_versions(
    session: Session, system: System, model: Model, base: Version, other: Version
) -> Comparison:
    """Ask both heads about every holdout image that both backbones have seen. Nothing is embedded anew.

    Raises:
        ArtefactInvalid: the head of one of them is gone or damaged.
        EmbeddingGone: an image was deleted in this very moment.
    """
    heads = [load_head(system, version) for version in (base, other)]
    widths = {head.backbone_digest: head.weights.shape[1] for head in heads}  # often one backbone for both
    every = list_split(session, model.id, Split.HOLDOUT, ())
    unseen: set[UUID] = set()
    for digest in widths:
        unseen.update(find_missing(session, digest, every.image_ids))
    asked = [
        (image_id, label)
        for image_id, label in zip(every.image_ids, every.labels, strict=True)
        if image_id not in unseen
    ]
    ids = [image_id for image_id, _ in asked]
    index = {label: i for i, label in enumerate(model.labels)}
    seen = {digest: load_embeddings(session, digest, ids, width) for digest, width in widths.items()}
    scores = [head.scores(seen[head.backbone_digest]) for head in heads]
    answers = Answers(
        image_ids=tuple(str(image_id) for image_id in ids),
        truth=np.array([index[label] for _, label in asked], np.int64),
        champion=scores[0],
        candidate=scores[1],
    )
    pairs = Pairs.compare(answers.champion_right, answers.candidate_right)
    return Comparison(base.number, other.number, answers, pairs, len(unseen))


def ask_version(
    session: Session, system: System, version: Version, image_ids: Sequence[UUID]
) -> dict[UUID, Saying]:
    """What a version says about these images; those that its backbone has not seen are left out.

    Raises:
        ArtefactInvalid: its head is gone or damaged.
        EmbeddingGone: an image was deleted in this very moment.
    """
    head, seen, scores = score_seen(session, system, version, image_ids)
    return {
        image_id: Saying(head.labels[int(row.argmax())], float(row.max()))
        for image_id, row in zip(seen, scores, strict=True)
    }
