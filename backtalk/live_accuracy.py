"""How often each version is right on live traffic, from predictions that were drawn before anybody knew."""

from dataclasses import dataclass

from sqlalchemy import and_, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from backtalk.decisions import stands
from backtalk.intervals import wilson
from backtalk.tables import Decision, Model, Prediction


@dataclass(frozen=True)
class LiveAccuracy:
    """`right` of `answered` audits of one version; `low` and `high` are the 95 % interval of the share."""

    version: int
    right: int
    answered: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.answered


def find_live_accuracy(session: Session, model: Model) -> list[LiveAccuracy]:
    """By version, newest first; only versions with an answered audit.

    Counted are audits that a person answered with a label, by the newest answer that stands: a rejected one
    says nothing about the prediction. The draw was made before the answer, so nothing biases the share.
    """
    newest = (
        select(Decision.prediction_id, Decision.label)
        .where(Decision.model_id == model.id, Decision.counts, Decision.actor != "policy", stands())
        .order_by(Decision.prediction_id, Decision.id.desc())
        .ext(distinct_on(Decision.prediction_id))
        .subquery()
    )
    drawn = and_(Prediction.id == newest.c.prediction_id, Prediction.audit)
    right = func.count().filter(newest.c.label == Prediction.label)
    rows = session.execute(
        select(Prediction.version, right, func.count())
        .join(newest, drawn)
        .group_by(Prediction.version)
        .order_by(Prediction.version.desc())
    )
    return [LiveAccuracy(version, hits, n, *wilson(hits, n)) for version, hits, n in rows]
