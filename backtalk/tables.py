"""The rows, as SQLAlchemy maps them. The constraints here are the ones that Alembic lays down."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backtalk import states
from backtalk.db import new_id

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        Json: JSONB,
        list[str]: ARRAY(Text),
        list[int]: ARRAY(BigInteger),
        list[float]: ARRAY(REAL),
    }


def _one_of(column: str, values: type[Any]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class Model(Base):
    """A named classifier. `generation` rises by one with each change of champion."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    labels: Mapped[list[str]]
    policy: Mapped[Json] = mapped_column(server_default=text("'{}'"))  # only what differs from the defaults
    policy_version: Mapped[int] = mapped_column(server_default=text("1"))
    salt: Mapped[bytes]  # key of the draws (sides, audits): nobody outside can foretell them
    eval_share: Mapped[float]  # of the base groups; traffic has its own, fixed
    live_version: Mapped[int | None]
    generation: Mapped[int] = mapped_column(server_default=text("0"))
    next_version: Mapped[int] = mapped_column(server_default=text("1"))  # never reused
    hold: Mapped[bool] = mapped_column(server_default=text("false"))
    consider_at: Mapped[datetime | None] = mapped_column(index=True)
    tracked_generation: Mapped[int | None]  # that MLflow's aliases were last set for
    created_at: Mapped[datetime] = _now()


class Backbone(Base):
    """A feature extractor, kept once in the store under its digest."""

    __tablename__ = "backbones"
    digest: Mapped[str] = mapped_column(primary_key=True)  # sha256 of the LiteRT flatbuffer
    name: Mapped[str]
    source_digest: Mapped[str] = mapped_column(unique=True)  # sha256 of weights and recipe it was made from
    input_size: Mapped[int]
    width: Mapped[int]  # of the embedding
    quantised_from: Mapped[str | None]  # digest of the float backbone that an 8-bit one was made from
    created_at: Mapped[datetime] = _now()


class Version(Base):
    __tablename__ = "versions"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    state: Mapped[str]
    run_id: Mapped[UUID | None]
    parent: Mapped[int | None]  # number of the champion that it was made from
    backbone_digest: Mapped[str] = mapped_column(ForeignKey("backbones.digest"))
    artefact_digest: Mapped[str]  # sha256 of SHA256SUMS
    path: Mapped[str]  # below the store: `<model>/.candidates/<run>-<fence>` or `<model>/<N>`
    metrics: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    anchored_at: Mapped[datetime | None]  # set when it became an anchor; cleared by a person's rollback
    pruned_at: Mapped[datetime | None]  # its SavedModel is gone; `head.npz` may still be there
    asked_by: Mapped[str | None]  # who asked for its promotion where the store cannot be written
    asked_generation: Mapped[int | None]  # as it was then: a later champion is not overruled
    asked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        _one_of("state", states.VersionState),
        Index(
            "uq_versions_live",
            "model_id",
            unique=True,
            postgresql_where=text("state = 'live'"),
        ),
    )


class DeviceFile(Base):
    """A version as one file for devices: asked for, then made by a worker, or not, and why."""

    __tablename__ = "device_files"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    form: Mapped[str]
    asked_by: Mapped[str]
    asked_at: Mapped[datetime] = _now()  # last; a lost doorbell is rung again by whoever asks
    made_at: Mapped[datetime | None]
    sha256: Mapped[str | None]
    byte_size: Mapped[int | None]
    checked: Mapped[Json] = mapped_column(server_default=text("'{}'"))  # how it agrees with what serves
    problem: Mapped[str | None]  # why there is none; forgotten when somebody asks again later
    settled_at: Mapped[datetime | None]  # when that was found
    __table_args__ = (UniqueConstraint("version_id", "form"), _one_of("form", states.DeviceForm))


class Image(Base):
    """One picture by its decoded pixels. After a deletion the row stays as a tombstone."""

    __tablename__ = "images"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    pixels_sha256: Mapped[str | None] = mapped_column(unique=True)
    perceptual_hash: Mapped[int | None]  # 64 bits, as a signed integer
    width: Mapped[int]
    height: Mapped[int]
    orientation: Mapped[int] = mapped_column(server_default=text("1"))  # EXIF, cut out of the kept file
    store_key: Mapped[str | None]  # null where the policy keeps no pixels
    byte_size: Mapped[int]
    created_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]


class ImageRemoval(Base):
    """Pixels whose files are to go: their image was deleted, or its policy keeps none any more."""

    __tablename__ = "image_removals"
    pixels_sha256: Mapped[str] = mapped_column(primary_key=True)
    asked_at: Mapped[datetime] = _now()


class ImageGroup(Base):
    """Near-duplicates of one first image, drawn to one side together."""

    __tablename__ = "image_groups"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    first_image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"))
    perceptual_hash: Mapped[int | None]  # null once all its images are deleted: nothing falls into it then
    side: Mapped[str]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (UniqueConstraint("model_id", "first_image_id"), _one_of("side", states.Side))


class GroupMember(Base):
    """Which group an image fell into; none where it lies near groups of different sides (straddles)."""

    __tablename__ = "group_members"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"), primary_key=True)
    group_id: Mapped[int | None] = mapped_column(ForeignKey("image_groups.id"), index=True)


class Embedding(Base):
    """What a backbone sees in an image, rounded to float16."""

    __tablename__ = "embeddings"
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"), primary_key=True)
    backbone_digest: Mapped[str] = mapped_column(primary_key=True)
    vector: Mapped[HalfVector] = mapped_column(HALFVEC())


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)  # the public part of the key
    name: Mapped[str]
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    trusted: Mapped[bool] = mapped_column(server_default=text("false"))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # with either secret
    previous_sha256: Mapped[str | None]  # of the secret before this one, which lives on for a while
    previous_until: Mapped[datetime | None]
    previous_used_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class User(Base):
    """A person who signs in to the pages."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]  # Argon2id
    password_given_at: Mapped[datetime | None]  # by an admin: to be changed before anything else
    scopes: Mapped[list[str]]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class UserSession(Base):
    __tablename__ = "user_sessions"
    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    csrf_token: Mapped[str]
    created_at: Mapped[datetime] = _now()
    seen_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime]


class UserBrowser(Base):
    """A browser in which somebody has signed in; it opens nothing, but has a throttle of its own."""

    __tablename__ = "user_browsers"
    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    seen_at: Mapped[datetime] = _now()


class SignInAttempt(Base):
    """Failed sign-ins, so that guessing is slowed down whatever process answers."""

    __tablename__ = "sign_in_attempts"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    counted: Mapped[str]  # a name, an address, both, or a browser: see `throttle`
    at: Mapped[datetime] = _now()
    __table_args__ = (Index(None, "counted", "at"),)


class Prediction(Base):
    """What a version said about an image: recorded before it is answered, or reported by a device."""

    __tablename__ = "predictions"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    version: Mapped[int]
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"), index=True)
    label: Mapped[str]
    scores: Mapped[list[float]]  # in the order of the model's labels; empty where a device sent none
    key_id: Mapped[str | None]
    audit: Mapped[bool] = mapped_column(server_default=text("false"))
    made_elsewhere: Mapped[bool] = mapped_column(
        server_default=text("false")
    )  # so no replay gives its scores
    client_ref: Mapped[str | None]  # what the device calls it
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        Index(None, "model_id", "created_at"),
        Index(
            "uq_predictions_client_ref",
            "key_id",
            "client_ref",
            unique=True,
            postgresql_where=text("client_ref IS NOT NULL"),
        ),
        Index(
            "ix_predictions_audited",
            "model_id",
            "version",
            postgresql_where=text("audit"),
            postgresql_include=["id", "label", "image_id"],  # all that live accuracy reads
        ),
    )


class Correction(Base):
    """Somebody says that a prediction was wrong, and what is right."""

    __tablename__ = "corrections"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    prediction_id: Mapped[UUID] = mapped_column(ForeignKey("predictions.id"), index=True)
    label: Mapped[str]
    reporter: Mapped[str]
    key_id: Mapped[str | None]
    note: Mapped[str | None]
    state: Mapped[str]
    suspicion: Mapped[float | None]  # 1: neither champion nor neighbours support it; null: not weighed
    mark: Mapped[str | None]  # why a reviewer should look twice
    prepared_at: Mapped[datetime | None]  # when review.prepare has dealt with it
    reviewed_at: Mapped[datetime | None]
    decision_id: Mapped[int | None] = mapped_column(
        # Decisions point to items, items to corrections: this one closes the circle, so it comes last.
        ForeignKey("decisions.id", name="fk_corrections_decision_id", use_alter=True)
    )
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        _one_of("state", states.CorrectionState),
        Index(None, "model_id", "state", "id"),
        Index(None, "key_id"),
        Index(
            "uq_corrections_pending",
            "prediction_id",
            "reporter",
            unique=True,
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_corrections_unprepared", "created_at", postgresql_where=text("prepared_at IS NULL")),
        Index("ix_corrections_decision", "decision_id", postgresql_where=text("decision_id IS NOT NULL")),
        Index(
            "ix_corrections_reporter",
            "model_id",
            "reporter",
            "reviewed_at",
            postgresql_where=text("state IN ('approved', 'rejected')"),
        ),
    )


class FeedbackDay(Base):
    """How many predictions of one past day were looked at, and how many of them were corrected by now."""

    __tablename__ = "feedback_days"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)  # UTC
    predictions: Mapped[int]
    corrected: Mapped[int]
    counted_at: Mapped[datetime] = _now()


class Confirmation(Base):
    """Somebody says that a prediction was right."""

    __tablename__ = "confirmations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    prediction_id: Mapped[UUID] = mapped_column(ForeignKey("predictions.id"))
    reporter: Mapped[str]
    key_id: Mapped[str | None]
    state: Mapped[str]
    prepared_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        _one_of("state", states.ConfirmationState),
        UniqueConstraint("prediction_id", "reporter"),
        Index("ix_confirmations_unprepared", "created_at", postgresql_where=text("prepared_at IS NULL")),
    )


_OPEN = text("closed_at IS NULL")


class ReviewItem(Base):
    """One thing for a reviewer to look at; at most one is open per prediction.

    What the queue is sorted and filtered by stands in the row: an index brings a page of a long queue.
    """

    __tablename__ = "review_items"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    prediction_id: Mapped[UUID] = mapped_column(ForeignKey("predictions.id"))
    kind: Mapped[str]
    queue: Mapped[str]
    correction_id: Mapped[UUID | None] = mapped_column(ForeignKey("corrections.id"))
    sample_id: Mapped[int | None] = mapped_column(  # whose label is in question, or known
        # Decisions point to items, samples to decisions: this one closes the circle.
        ForeignKey("samples.id", name="fk_review_items_sample_id", use_alter=True)
    )
    scores: Mapped[list[float] | None]  # by heads that did not learn from it; else the prediction's
    mark: Mapped[str | None]  # why its label is suspected
    reported: Mapped[str | None]  # the newest reported label, or the one that is suspected
    reporter: Mapped[str | None]  # who reported it
    predicted: Mapped[str]
    margin: Mapped[float] = mapped_column(REAL)  # of the prediction: highest score less the second
    doubt: Mapped[float] = mapped_column(REAL)  # in the label in question: `suspicion`, else 1 less its score
    group_id: Mapped[int | None] = mapped_column(ForeignKey("image_groups.id"))  # of near-duplicates
    etag: Mapped[int] = mapped_column(server_default=text("1"))  # rises with each change that matters
    leased_by: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    lease_view: Mapped[UUID | None]  # the open page that holds it
    skipped_by: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    flagged_at: Mapped[datetime | None]  # since when it waits for an expert
    flagged_by: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    closed_at: Mapped[datetime | None]
    __table_args__ = (
        _one_of("kind", states.ItemKind),
        _one_of("queue", states.Queue),
        CheckConstraint(
            "(kind = 'correction') = (correction_id IS NOT NULL) "
            "AND (kind IN ('correction', 'suspected')) = (reported IS NOT NULL) "
            "AND (kind IN ('suspected', 'gold')) = (sample_id IS NOT NULL)",
            name="names_its_subject",
        ),
        Index("uq_review_items_open", "prediction_id", unique=True, postgresql_where=_OPEN),
        Index("ix_review_items_queue", "model_id", "id", postgresql_where=_OPEN),
        Index("ix_review_items_queues", "model_id", "queue", "id", postgresql_where=_OPEN),
        Index("ix_review_items_margin", "model_id", "margin", "id", postgresql_where=_OPEN),
        Index("ix_review_items_doubt", "model_id", "doubt", "id", postgresql_where=_OPEN),
        Index("ix_review_items_pair", "model_id", "predicted", "reported", "id", postgresql_where=_OPEN),
        Index("ix_review_items_group", "model_id", "group_id", postgresql_where=_OPEN),
        Index("ix_review_items_reporter", "model_id", "reporter", "id", postgresql_where=_OPEN),
        Index(
            "ix_review_items_flagged",
            "model_id",
            "id",
            postgresql_where=text("closed_at IS NULL AND flagged_at IS NOT NULL"),
        ),
        Index("ix_review_items_sample", "sample_id", postgresql_where=text("sample_id IS NOT NULL")),
        Index(
            "ix_review_items_viewed",
            "lease_view",
            postgresql_where=text("closed_at IS NULL AND lease_view IS NOT NULL"),
        ),
        Index(
            "ix_review_items_leased",
            "leased_by",
            "model_id",
            postgresql_where=text("closed_at IS NULL AND leased_by IS NOT NULL"),
        ),
    )


class ClosedView(Base):
    """A page that was left: what is leased for it later goes to nobody. Forgotten after an hour."""

    __tablename__ = "closed_views"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    closed_at: Mapped[datetime] = _now()


class LabelCheck(Base):
    """When the training labels of a model were last held against each other, and what was found."""

    __tablename__ = "label_checks"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    generation: Mapped[int]  # the model's at that moment
    samples: Mapped[int]
    suspected: Mapped[int]
    reason: Mapped[str | None]  # why none could be weighed
    checked_at: Mapped[datetime] = _now()


class Decision(Base):
    """Append-only: what a reviewer (or the approval policy) decided about an item."""

    __tablename__ = "decisions"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    item_id: Mapped[UUID] = mapped_column(ForeignKey("review_items.id"), index=True)
    prediction_id: Mapped[UUID] = mapped_column(ForeignKey("predictions.id"), index=True)
    action: Mapped[str]
    label: Mapped[str | None]  # the right label; null for reject, skip, flag and undo
    actor: Mapped[str]  # `user:alice`, `key:<id>` or `policy`
    final: Mapped[bool]  # false for skip, flag and undo, and for the first of a quorum
    counts: Mapped[bool]  # final and with a right label: what triggers count, unless it was undone
    undoes: Mapped[int | None] = mapped_column(ForeignKey("decisions.id"))  # what an undo withdraws
    request_id: Mapped[UUID | None]  # given by who decides: a repeat finds the decision that it made
    batch_id: Mapped[UUID | None]  # the same for all that were decided with one press
    before: Mapped[Json | None]  # states of statements and the sample as they were, for an undo
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        _one_of("action", states.Action),
        CheckConstraint("(action = 'undo') = (undoes IS NOT NULL)", name="undo_names_decision"),
        CheckConstraint("NOT counts OR (final AND label IS NOT NULL)", name="counts_with_label"),
        Index("ix_decisions_counted", "model_id", "id", postgresql_where=text("counts")),
        Index("uq_decisions_undoes", "undoes", unique=True, postgresql_where=text("undoes IS NOT NULL")),
        Index(
            "uq_decisions_request",
            "actor",
            "request_id",
            unique=True,
            postgresql_where=text("request_id IS NOT NULL"),
        ),
        Index(None, "model_id", "actor", "created_at"),
        Index(None, "model_id", "created_at"),
    )


class Retraction(Base):
    """What somebody withdrew: one correction, all that a reporter said, or all that a key said and sent."""

    __tablename__ = "retractions"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    what: Mapped[str]
    subject: Mapped[str]  # the correction's id, `<reporter>` or `<model>/<reporter>`, the key's id
    actor: Mapped[str]
    counts: Mapped[Json]  # statements and samples that it took back
    created_at: Mapped[datetime] = _now()
    __table_args__ = (_one_of("what", states.Withdrawn),)


class Sample(Base):
    """An image with a label that may be learned from or judged on."""

    __tablename__ = "samples"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id"))
    label: Mapped[str]
    split: Mapped[str]
    origin: Mapped[str]
    by_person: Mapped[bool]  # the label was given or approved by a person (the base folder counts)
    prediction_id: Mapped[UUID | None] = mapped_column(ForeignKey("predictions.id"), index=True)
    decision_id: Mapped[int | None] = mapped_column(ForeignKey("decisions.id"))
    key_id: Mapped[str | None]  # whose statement it came from
    created_at: Mapped[datetime] = _now()
    retracted_at: Mapped[datetime | None]
    retraction_id: Mapped[int | None] = mapped_column(ForeignKey("retractions.id"))  # where it was withdrawn
    __table_args__ = (
        _one_of("split", states.Split),
        CheckConstraint("retraction_id IS NULL OR retracted_at IS NOT NULL", name="withdrawn_is_retracted"),
        Index("ix_samples_decision", "decision_id", postgresql_where=text("decision_id IS NOT NULL")),
        Index("ix_samples_withdrawn", "model_id", "id", postgresql_where=text("retraction_id IS NOT NULL")),
        _one_of("origin", states.Origin),
        CheckConstraint("by_person OR split NOT IN ('holdout', 'regression')", name="judged_by_person"),
        Index(
            "uq_samples_live",
            "model_id",
            "image_id",
            unique=True,
            postgresql_where=text("retracted_at IS NULL"),
        ),
        Index(
            "ix_samples_split",
            "model_id",
            "split",
            "id",
            postgresql_where=text("retracted_at IS NULL"),
        ),
    )


class Snapshot(Base):
    """The frozen list of samples that runs learn from, by the digest of what it holds."""

    __tablename__ = "snapshots"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    digest: Mapped[str]
    sample_ids: Mapped[list[int]]  # ascending, without repetition
    stay_right_ids: Mapped[list[UUID]] = mapped_column(
        ARRAY(Uuid)
    )  # unlabelled images for the stay-right term
    counts: Mapped[Json]  # samples by split, origin and label
    created_at: Mapped[datetime] = _now()
    __table_args__ = (UniqueConstraint("model_id", "digest"),)


class Run(Base):
    """One attempt to make a candidate. The row is the job; messages only ring."""

    __tablename__ = "runs"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str]
    trigger_key: Mapped[str]  # `approved:<decision>`, `nightly:<date>`, `manual:<request>`, …
    retry: Mapped[int] = mapped_column(server_default=text("0"))
    requested_by: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]  # why it ended as it did, in a sentence
    seed: Mapped[int]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    progress_at: Mapped[datetime | None]
    progress: Mapped[Json] = mapped_column(server_default=text("'{}'"))  # step, fraction, seconds by part
    snapshot_digest: Mapped[str | None]
    recipe: Mapped[Json | None]  # of a full run: its name, and once claimed all of it
    tuned_on: Mapped[str | None]  # of a full run: digest of the snapshot that its backbone learns from
    tuned_from: Mapped[int | None]  # of a full run: the champion at its first attempt, which teaches it
    decision_cut: Mapped[int] = mapped_column(server_default=text("0"))  # highest decision in the snapshot
    base_version: Mapped[int | None]  # the champion at the claim
    version: Mapped[int | None]  # the number that it drew
    judged_generation: Mapped[int | None]  # the champion's generation that the verdict speaks of
    verdict: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    mlflow_run_id: Mapped[str | None]  # where MLflow tells of it
    __table_args__ = (
        UniqueConstraint("model_id", "kind", "trigger_key", "retry"),
        _one_of("kind", states.RunKind),
        _one_of("state", states.RunState),
        Index(
            "uq_runs_active",
            "model_id",
            "kind",
            unique=True,
            postgresql_where=text("state IN ('queued', 'training', 'judging', 'promoting')"),
        ),
        Index(None, "model_id", "created_at"),
        Index(
            "ix_runs_untracked",
            "ended_at",
            postgresql_where=text("mlflow_run_id IS NULL AND ended_at IS NOT NULL"),
        ),
        ForeignKeyConstraint(["model_id", "snapshot_digest"], ["snapshots.model_id", "snapshots.digest"]),
    )


class GateCheck(Base):
    """One line of a verdict, with the images behind it in `detail`."""

    __tablename__ = "gate_checks"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), index=True)
    round: Mapped[int]  # a run is judged again when the champion changed under it
    check: Mapped[str] = mapped_column("check")
    value: Mapped[float | None]
    bound: Mapped[float | None]
    n: Mapped[int]
    fixed: Mapped[int]  # b: the champion was wrong, the candidate is right
    broken: Mapped[int]  # c: the other way round
    passed: Mapped[bool | None]  # null: shown, not judged, or too few images
    detail: Mapped[Json]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (UniqueConstraint("run_id", "round", "check"),)


class LedgerEntry(Base):
    """Append-only, hash-chained: each change of champion."""

    __tablename__ = "ledger"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)  # equals the generation that it made
    action: Mapped[str]  # create, promote, rollback
    version: Mapped[int]
    previous_version: Mapped[int | None]
    run_id: Mapped[UUID | None]
    actor: Mapped[str]
    artefact_digest: Mapped[str]
    detail: Mapped[Json]
    created_at: Mapped[datetime]
    previous_hash: Mapped[str]
    hash: Mapped[str]
    __table_args__ = (CheckConstraint("action IN ('create', 'promote', 'rollback')", name="action_known"),)


class TriggerCheck(Base):
    """One consideration: what was counted, and why a run came of it or not."""

    __tablename__ = "trigger_checks"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str]
    policy: Mapped[Json]
    counts: Mapped[Json]
    fired: Mapped[bool]
    run_id: Mapped[UUID | None]
    reason: Mapped[str]
    at: Mapped[datetime] = _now()
    __table_args__ = (Index(None, "model_id", "id"),)


class OutboxEvent(Base):
    """An event that waits for the relay, committed with the rows it speaks of."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    event: Mapped[str]
    payload: Mapped[Json]
    created_at: Mapped[datetime] = _now()
    published_at: Mapped[datetime | None]
    __table_args__ = (Index("ix_outbox_unpublished", "id", postgresql_where=text("published_at IS NULL")),)


class Replica(Base):
    """What one API process has in service, as it said last."""

    __tablename__ = "replicas"
    process: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    generation: Mapped[int]
    version: Mapped[int | None]
    error: Mapped[str | None]  # why the wanted version could not be loaded
    seen_at: Mapped[datetime] = _now()


class IdempotencyKey(Base):
    """The answer that a POST with this key got, so that a repeat gets the same."""

    __tablename__ = "idempotency_keys"
    key_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]  # of method, path and body
    status: Mapped[int]
    response: Mapped[Json]
    generation: Mapped[int | None]  # of the model that the answer speaks of
    created_at: Mapped[datetime] = _now()
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)


class AuditEntry(Base):
    """Append-only, hash-chained: every change that a person or a key made. `audit.record` writes it."""

    __tablename__ = "audit_log"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # without a gap
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[Json]
    previous_hash: Mapped[str] = mapped_column(unique=True)  # no two entries follow the same one
    hash: Mapped[str]
