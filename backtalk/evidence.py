"""Asks champion, candidate and anchor about the same images, from stored embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk.answers import Past
from backtalk.champions import get_champion, locate
from backtalk.costing import measure_costs
from backtalk.dataset import LabelledImages, list_split
from backtalk.embeddings import embed_missing, find_missing, load_embeddings
from backtalk.gate import Answers, Evidence
from backtalk.heads import Head
from backtalk.lineage import find_tainted
from backtalk.recipes import Recipe
from backtalk.runtime import Backbone
from backtalk.states import VERDICT_RUN_STATES, Split
from backtalk.system import System
from backtalk.tables import Model, Run, Sample, Version

WORN_AFTER = 20  # verdicts by one holdout, beyond which it should be a third new
PAST_MOST = 5  # anchors that classes are held against: version 1, and the newest others


@dataclass(frozen=True)
class Contest:
    """The versions that a verdict is about."""

    candidate: Version
    champion: Version
    anchor: Version
    past: tuple[Version, ...]  # anchors other than the champion, the newest first


def get_contest(session: Session, model: Model, candidate: Version) -> Contest:
    """The candidate against the champion and the anchors of this moment."""
    champion = get_champion(session, model.id)
    anchors = session.scalars(
        select(Version)
        .where(Version.model_id == model.id, Version.anchored_at.is_not(None))
        .order_by(Version.anchored_at.desc())
    ).all()
    # One that learned from what was withdrawn may have had its recall from lies about another class.
    tainted = find_tainted(session, model.id)
    past = [v for v in anchors if v.number != champion.number and v.number not in tainted]
    if len(past) > PAST_MOST:
        past = [*past[: PAST_MOST - 1], past[-1]]
    return Contest(candidate, champion, anchors[0], tuple(past))


@dataclass(frozen=True)
class Gathered:
    """Evidence, with what the caller needs to find the images again."""

    evidence: Evidence
    kept: LabelledImages


def gather_evidence(
    session: Session, system: System, model: Model, contest: Contest, recipe: Recipe | None = None
) -> Gathered:
    """Everybody's answers on the live judging sets. Images that some backbone cannot see are left out.

    `recipe`: of a full run. One that makes the backbone smaller or faster need not make it better.
    """
    heads = [load_head(system, v) for v in (contest.champion, contest.candidate, contest.anchor)]
    _embed_for(session, system, model.id, heads)
    digests = [head.backbone_digest for head in heads]
    lists = {
        split: list_split(session, model.id, split, digests)
        for split in (Split.HOLDOUT, Split.REGRESSION, Split.KEPT)
    }
    served, new_share = _measure_wear(session, model.id)
    answers = {
        split: _ask(session, model, heads, images, with_anchor=split is Split.HOLDOUT)
        for split, images in lists.items()
    }
    past = _look_back(session, system, contest.past, lists[Split.HOLDOUT], answers[Split.HOLDOUT].truth)
    evidence = Evidence(
        labels=tuple(model.labels),
        holdout=replace(answers[Split.HOLDOUT], past=past),
        regression=answers[Split.REGRESSION],
        kept=answers[Split.KEPT],
        served_before=served,
        new_share=new_share,
        aim="equal" if recipe is not None and recipe.method != "tune" else "better",
        costs=measure_costs(
            system,
            contest.champion.backbone_digest,
            contest.candidate.backbone_digest,
            recipe.budget if recipe is not None else None,
        ),
    )
    return Gathered(evidence, lists[Split.KEPT])


def load_head(system: System, version: Version) -> Head:
    """The head of a version, wherever its folder is by now (published, but perhaps not committed yet)."""
    return Head.load(locate(system, version) / "head.npz")


def score_seen(
    session: Session, system: System, version: Version, image_ids: Sequence[UUID]
) -> tuple[Head, list[UUID], NDArray[np.float32]]:
    """A version's head, those of the images that its backbone has seen, and the scores (N, C) of these.

    Raises:
        ArtefactInvalid: its head is gone or damaged.
        EmbeddingGone: an image was deleted in this very moment.
    """
    head = load_head(system, version)
    unseen = set(find_missing(session, head.backbone_digest, image_ids))
    seen = [image_id for image_id in image_ids if image_id not in unseen]
    return head, seen, _scores(session, head, seen)


def _embed_for(session: Session, system: System, model_id: int, heads: Sequence[Head]) -> None:
    """Anchor and champion may stand on older backbones, which have not seen the newest images."""
    image_ids = list(
        session.scalars(
            select(Sample.image_id).where(
                Sample.model_id == model_id,
                Sample.retracted_at.is_(None),
                Sample.split.in_((Split.HOLDOUT, Split.REGRESSION, Split.KEPT)),
            )
        )
    )
    for digest in {head.backbone_digest for head in heads}:
        _embed(session, system, digest, image_ids)


def _embed(session: Session, system: System, digest: str, image_ids: list[UUID]) -> set[UUID]:
    """Images that this backbone has not seen, and cannot since their pixels are not kept."""
    if not find_missing(session, digest, image_ids):
        return set()
    backbone = Backbone(system.versions.backbone_dir(digest), interpreters=1)
    return set(embed_missing(session, system.images, backbone, image_ids))


def _look_back(
    session: Session,
    system: System,
    versions: Sequence[Version],
    images: LabelledImages,
    truth: NDArray[np.integer[Any]],
) -> tuple[Past, ...]:
    """What earlier anchors read right. An image that only some of them can see is held against those."""
    found = []
    for version in versions:
        head = load_head(system, version)
        unseen = _embed(session, system, head.backbone_digest, images.image_ids)
        seen = np.array([i not in unseen for i in images.image_ids], np.bool_)
        scores = _scores(session, head, [i for i in images.image_ids if i not in unseen])
        right = np.zeros(len(truth), np.bool_)
        right[seen] = scores.argmax(axis=1) == truth[seen] if len(scores) else False
        found.append(Past(version.number, seen, right))
    return tuple(found)


def _ask(
    session: Session, model: Model, heads: Sequence[Head], images: LabelledImages, *, with_anchor: bool
) -> Answers:
    champion, candidate, anchor = heads
    index = {label: i for i, label in enumerate(model.labels)}
    return Answers(
        image_ids=tuple(str(i) for i in images.image_ids),
        truth=np.array([index[label] for label in images.labels], np.int64),
        champion=_scores(session, champion, images.image_ids),
        candidate=_scores(session, candidate, images.image_ids),
        anchor=_scores(session, anchor, images.image_ids) if with_anchor else None,
    )


def _scores(session: Session, head: Head, image_ids: list[UUID]) -> NDArray[np.float32]:
    width = head.weights.shape[1]
    return head.scores(load_embeddings(session, head.backbone_digest, image_ids, width))


def _measure_wear(session: Session, model_id: int) -> tuple[int, float]:
    """How many verdicts the holdout has served, and what share of it came after the 20th verdict back."""
    ended = list(
        session.scalars(
            select(Run.ended_at)
            .where(Run.model_id == model_id, Run.state.in_(VERDICT_RUN_STATES))
            .order_by(Run.ended_at.desc())
        )
    )
    if len(ended) < WORN_AFTER:
        return len(ended), 1.0
    holdout = (Sample.model_id == model_id, Sample.retracted_at.is_(None), Sample.split == Split.HOLDOUT)
    total = session.scalar(select(func.count()).select_from(Sample).where(*holdout)) or 0
    new = (
        session.scalar(
            select(func.count())
            .select_from(Sample)
            .where(*holdout, Sample.created_at > ended[WORN_AFTER - 1])
        )
        or 0
    )
    return len(ended), new / total if total else 0.0
