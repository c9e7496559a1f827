"""Rows for tests, with sensible values for whatever the test does not care about.

Each takes a session and flushes, so that ids are there; the caller's transaction commits.
"""

import secrets
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from backtalk import items, states, tables

BACKBONE_DIGEST = "b" * 64
LABELS = ("cat", "dog")


def add(session: Session, row: Any) -> Any:
    session.add(row)
    session.flush()
    return row


def make_backbone(session: Session, digest: str = BACKBONE_DIGEST, **values: Any) -> tables.Backbone:
    found = session.get(tables.Backbone, digest)
    if found is not None:
        return found
    values = {"name": "tiny", "source_digest": "s" + digest[1:], "input_size": 32, "width": 16} | values
    return add(session, tables.Backbone(digest=digest, **values))


def make_model(session: Session, name: str = "animals", *, live: bool = True, **values: Any) -> tables.Model:
    """A model with version 1 live (unless `live` is false), generation 1, and no ledger."""
    values = {"labels": list(LABELS), "salt": b"salt", "eval_share": 0.2} | values
    model = add(session, tables.Model(name=name, **values))
    if live:
        make_version(session, model, number=1, state=states.VersionState.LIVE)
        model.live_version, model.generation, model.next_version = 1, 1, 2
        session.flush()
    return model


def make_version(
    session: Session,
    model: tables.Model,
    number: int,
    state: str = states.VersionState.CANDIDATE,
    **values: Any,
) -> tables.Version:
    backbone = make_backbone(session, values.pop("backbone_digest", BACKBONE_DIGEST))
    values = {"artefact_digest": f"{number:064d}", "path": f"{model.name}/{number}"} | values
    row = tables.Version(
        model_id=model.id, number=number, state=state, backbone_digest=backbone.digest, **values
    )
    return add(session, row)


def make_image(session: Session, **values: Any) -> tables.Image:
    values = {
        "pixels_sha256": secrets.token_hex(32),
        "perceptual_hash": secrets.randbits(63),
        "width": 32,
        "height": 32,
        "byte_size": 1000,
    } | values
    return add(session, tables.Image(**values))


def make_group(
    session: Session, model: tables.Model, image: tables.Image, side: str = states.Side.TRAIN
) -> tables.ImageGroup:
    """The image's own group, with the image in it."""
    group = add(
        session,
        tables.ImageGroup(
            model_id=model.id,
            first_image_id=image.id,
            perceptual_hash=image.perceptual_hash or 0,
            side=side,
        ),
    )
    add(session, tables.GroupMember(model_id=model.id, image_id=image.id, group_id=group.id))
    return group


def make_prediction(
    session: Session, model: tables.Model, image: tables.Image | None = None, **values: Any
) -> tables.Prediction:
    image = image or make_image(session)
    label = values.pop("label", model.labels[0])
    others = max(len(model.labels) - 1, 1)
    scores = [0.8 if known == label else 0.2 / others for known in model.labels]
    values = {"version": model.live_version or 1, "scores": scores, "key_id": "app"} | values
    row = tables.Prediction(model_id=model.id, image_id=image.id, label=label, **values)
    return add(session, row)


def make_correction(
    session: Session, prediction: tables.Prediction, label: str, **values: Any
) -> tables.Correction:
    values = {
        "model_id": prediction.model_id,
        "reporter": "app",
        "key_id": "app",
        "state": states.CorrectionState.PENDING,
    } | values
    return add(session, tables.Correction(prediction_id=prediction.id, label=label, **values))


def make_confirmation(session: Session, prediction: tables.Prediction, **values: Any) -> tables.Confirmation:
    values = {
        "model_id": prediction.model_id,
        "reporter": "app",
        "key_id": "app",
        "state": states.ConfirmationState.ACTIVE,
    } | values
    return add(session, tables.Confirmation(prediction_id=prediction.id, **values))


def make_item(
    session: Session,
    prediction: tables.Prediction,
    correction: tables.Correction | None = None,
    **values: Any,
) -> tables.ReviewItem:
    """An open item: of kind `correction` where one is given, else `audit`."""
    values = {
        "model_id": prediction.model_id,
        "kind": states.ItemKind.CORRECTION if correction else states.ItemKind.AUDIT,
    } | values
    row = tables.ReviewItem(prediction_id=prediction.id, **values)
    items.describe(session, row, prediction, correction)
    return add(session, row)


def make_decision(
    session: Session,
    model: tables.Model,
    label: str | None = None,
    *,
    item: tables.ReviewItem | None = None,
    **values: Any,
) -> tables.Decision:
    """A final decision that counts, with the prediction and item behind it where none is given."""
    label = label or model.labels[-1]
    if item is None:
        prediction = make_prediction(session, model)
        item = make_item(session, prediction, make_correction(session, prediction, label))
    values = {
        "action": states.Action.APPROVE,
        "actor": "user:alice",
        "final": True,
        "counts": True,
        "label": label,
    } | values
    return add(
        session,
        tables.Decision(model_id=model.id, item_id=item.id, prediction_id=item.prediction_id, **values),
    )


def make_sample(
    session: Session, model: tables.Model, image: tables.Image | None = None, **values: Any
) -> tables.Sample:
    image = image or make_image(session)
    values = {
        "label": model.labels[0],
        "split": states.Split.TRAIN,
        "origin": states.Origin.BASE,
        "by_person": True,
    } | values
    return add(session, tables.Sample(model_id=model.id, image_id=image.id, **values))


def make_retraction(session: Session, **values: Any) -> tables.Retraction:
    """A key's."""
    values = {"what": states.Withdrawn.KEY, "subject": "k1", "actor": "cli", "counts": {}} | values
    return add(session, tables.Retraction(**values))


def make_run(session: Session, model: tables.Model, **values: Any) -> tables.Run:
    values = {
        "kind": states.RunKind.HEAD,
        "trigger_key": f"manual:{secrets.token_hex(8)}",
        "requested_by": "user:alice",
        "state": states.RunState.QUEUED,
        "seed": 7,
    } | values
    return add(session, tables.Run(model_id=model.id, **values))


def count(session: Session, table: type[tables.Base], **equals: Any) -> int:
    """Rows of `table` whose columns have these values."""
    return session.query(table).filter_by(**equals).count()


def reload(session: Session, table: type[Any], key: int | str | UUID) -> Any:
    """The row as the database has it now."""
    return session.get(table, key, populate_existing=True)
