"""From a row that says what should be live to a version that can answer."""

from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from backtalk.errors import ArtefactInvalid
from backtalk.failpoints import failpoint
from backtalk.heads import Head
from backtalk.policy import Policy
from backtalk.runtime import Backbone
from backtalk.store import VersionStore, verify_sums
from backtalk.tables import Model, Version


@dataclass(frozen=True, slots=True)
class Artefact:
    """One version's files."""

    number: int
    digest: str
    backbone_digest: str
    path: str  # below the store; changes when a candidate gets its number


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the database says about one model."""

    model_id: int
    name: str
    labels: tuple[str, ...]
    policy: Policy
    salt: bytes
    generation: int
    artefact: Artefact | None  # none while the first version is being made

    def same_files(self, other: "Wanted") -> bool:
        """Whether both ask for the same version, whatever else changed."""
        mine, its = self.artefact, other.artefact
        if mine is None or its is None:
            return mine is its
        return (mine.number, mine.digest) == (its.number, its.digest)


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A loaded version with all that a request needs. Never changed: a newer one takes its place."""

    wanted: Wanted
    number: int
    head: Head
    backbone: Backbone

    @property
    def generation(self) -> int:
        return self.wanted.generation

    @property
    def labels(self) -> tuple[str, ...]:
        return self.wanted.labels


def read_wanted(session: Session) -> list[Wanted]:
    """All models with what should be live, in one query."""
    rows = session.execute(
        select(
            Model.id,
            Model.name,
            Model.labels,
            Model.policy,
            Model.salt,
            Model.generation,
            Version.number,
            Version.artefact_digest,
            Version.backbone_digest,
            Version.path,
        )
        .outerjoin(Version, and_(Version.model_id == Model.id, Version.number == Model.live_version))
        .order_by(Model.id)
    )
    return [
        Wanted(
            model_id=row.id,
            name=row.name,
            labels=tuple(row.labels),
            policy=Policy.parse(row.policy),
            salt=bytes(row.salt),
            generation=row.generation,
            artefact=Artefact(row.number, row.artefact_digest, row.backbone_digest, row.path)
            if row.number is not None
            else None,
        )
        for row in rows
    ]


class Loader:
    """Loads versions from the store. Versions on one backbone share it for as long as one of them is held."""

    def __init__(self, store: VersionStore, interpreters: int) -> None:
        self._store = store
        self._interpreters = interpreters
        self._backbones: WeakValueDictionary[str, Backbone] = WeakValueDictionary()

    def load(self, wanted: Wanted) -> ServedVersion:
        """Verify, load and warm one version.

        Raises:
            ArtefactInvalid: files are missing, do not match their sums, or belong to other labels.
        """
        artefact = wanted.artefact
        if artefact is None:
            raise ArtefactInvalid(f"{wanted.name} has no version to load.")
        folder = self._store.resolve(artefact.path)
        failpoint("loading.before_sums")
        verify_sums(folder, artefact.digest)
        head = Head.load(folder / "head.npz")
        if (head.labels, head.backbone_digest) != (wanted.labels, artefact.backbone_digest):
            raise ArtefactInvalid(
                f"Version {artefact.number} of {wanted.name} has a head for other labels or another backbone."
            )
        backbone = self._get_backbone(artefact.backbone_digest)
        served = ServedVersion(wanted, artefact.number, head, backbone)
        _warm(served)
        return served

    def _get_backbone(self, digest: str) -> Backbone:
        backbone = self._backbones.get(digest)
        if backbone is None:
            backbone = Backbone(self._store.backbone_dir(digest), self._interpreters)
            if backbone.digest != digest:
                raise ArtefactInvalid(f"The backbone in the store under {digest} is another one.")
            self._backbones[digest] = backbone
        return backbone


def _warm(served: ServedVersion) -> None:
    """Answer once before anybody asks, so that no request pays for first use or meets a broken head."""
    size = served.backbone.input_size
    scores = served.head.scores(served.backbone.embed(np.zeros((1, size, size, 3), np.uint8)))
    if scores.shape != (1, len(served.labels)) or not np.isfinite(scores).all():
        raise ArtefactInvalid(f"Version {served.number} of {served.wanted.name} does not give scores.")
