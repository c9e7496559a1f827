"""What each key has said about a model, and how it turned out: the report that names a bad source."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from backtalk.doubts import Claim, Doubt, find_doubts
from backtalk.intervals import clopper_pearson_lower
from backtalk.tables import Model

CONFIDENCE = 0.9
#: A key is named where, with that confidence, people found more of its statements wrong than this, …
WRONG_SHARE = 0.10
#: … or its share of marked corrections is beyond this and twice that of the most believable other key, …
MARKED_SHARE = 0.20
#: … or more of its corrections than this were contradicted by others.
DISPUTED_SHARE = 0.20
FEWEST = 5  # statements without which a share says nothing
NEWEST = 20_000  # corrections that are compared with each other


@dataclass
class Source:
    """One key. Counts are statements about this model."""

    key: str
    app: str
    reporters: int
    corrections: int
    confirmations: int
    pending: int
    disputed: int
    approved: int
    approved_by_policy: int
    rejected: int
    retracted: int
    marked: int
    weighed: int
    answered_by_people: int
    contradicted_by_people: int
    versions: list[int]
    warnings: list[str] = field(default_factory=list)

    @property
    def marked_share(self) -> float | None:
        return self.marked / self.weighed if self.weighed else None


def list_sources(session: Session, model: Model) -> list[Source]:
    """All keys that have said something, the most doubtful first."""
    parameters: dict[str, Any] = {"model": model.id}
    learned: dict[str, list[int]] = {}
    for key, number in session.execute(text(_VERSIONS), parameters).all():
        learned.setdefault(key, []).append(number)
    rows = session.execute(text(_PEOPLE + _STATEMENTS), parameters).mappings().all()
    sources = [Source(**row, versions=learned.get(row["key"], [])) for row in rows]
    by_class: dict[str, list[Answered]] = {}
    for row in session.execute(text(_PEOPLE + _CLASSES), parameters).mappings():
        by_class.setdefault(row["key"], []).append(Answered(**row))
    claims = session.execute(text(_PEOPLE + _CLAIMS), parameters | {"newest": NEWEST}).mappings()
    warn_of(sources, by_class, find_doubts(Claim(**row) for row in claims))
    return sorted(sources, key=lambda s: (-len(s.warnings), -(s.marked_share or 0.0), -s.corrections, s.key))


def warn_of(sources: list[Source], by_class: dict[str, list["Answered"]], doubts: list[Doubt]) -> None:
    """Write down why a source deserves a look: what people found, what stands out, what nothing supports."""
    for source in sources:
        others = [other for other in sources if other.app != source.app]
        usual = _find_usual(others)
        source.warnings = _warn(source, usual)
        source.warnings += [doubt.sentence for doubt in doubts if source.key in doubt.keys]
        if not source.warnings:
            source.warnings = _warn_of_classes(by_class.get(source.key, []), usual or 0.0)


@dataclass(frozen=True)
class Answered:
    """A key's corrections of answers with one label."""

    key: str
    predicted: str
    marked: int
    weighed: int
    wrong: int
    answered: int


def _find_usual(others: list[Source]) -> float | None:
    """The lowest share of marks among other keys: where most of them collude, their mean would hide them."""
    shares = [other.marked_share for other in others if other.weighed >= FEWEST]
    return min((share for share in shares if share is not None), default=None)


def _warn_of_classes(classes: list[Answered], usual: float) -> list[str]:
    """Lies about one class drown among the rest of what a key says, so each class is looked at by itself.

    With many classes one would stand out by chance, so they share the doubt (Bonferroni).
    """
    looked_at = sum(max(one.weighed, one.answered) >= FEWEST for one in classes)
    confidence = 1 - (1 - CONFIDENCE) / max(1, looked_at)
    warnings = []
    for one in classes:
        said = f"of its corrections of answers {one.predicted!r}"
        if _is_beyond(one.wrong, one.answered, 2 * WRONG_SHARE, confidence):
            warnings.append(f"People found {one.wrong} of {one.answered} {said} wrong.")
        if _is_beyond(one.marked, one.weighed, max(MARKED_SHARE, 2 * usual), confidence):
            warnings.append(f"{one.marked} of {one.weighed} {said} are marked: nothing supports them.")
    return warnings


def _warn(source: Source, usual: float | None) -> list[str]:
    warnings = []
    wrong, answered = source.contradicted_by_people, source.answered_by_people
    if _is_beyond(wrong, answered, WRONG_SHARE):
        warnings.append(f"People found {wrong} of {answered} statements wrong.")
    if _is_beyond(source.marked, source.weighed, max(MARKED_SHARE, 2 * (usual or 0.0))):
        others_said = f"; of another key's {usual:.0%}" if usual is not None else ""
        warnings.append(
            f"{source.marked} of {source.weighed} corrections are marked: neither the champion nor similar "
            f"images support them{others_said}."
        )
    if _is_beyond(source.disputed, source.corrections, DISPUTED_SHARE):
        warnings.append(f"{source.disputed} of {source.corrections} corrections are disputed.")
    return warnings


def _is_beyond(count: int, of: int, limit: float, confidence: float = CONFIDENCE) -> bool:
    """Whether the share is beyond the limit whatever chance did (Clopper-Pearson)."""
    return of >= FEWEST and limit < 1 and float(clopper_pearson_lower(count, of, confidence)) > limit


# What a person said of a statement's prediction is its newest final decision that is not the policy's. One
# that teaches nothing (reject) contradicts a correction.
_PEOPLE = """
WITH people AS (
    SELECT DISTINCT ON (prediction_id) prediction_id, label FROM decisions
    WHERE model_id = :model AND final AND actor <> 'policy'
    AND NOT EXISTS (SELECT FROM decisions u WHERE u.undoes = decisions.id)
    ORDER BY prediction_id, id DESC
)"""
_STATEMENTS = """
, said AS (
    SELECT c.key_id, c.reporter, c.prediction_id, c.label, c.state, c.mark IS NOT NULL AS marked,
        c.suspicion IS NOT NULL AS weighed, true AS corrects,
        coalesce(d.actor = 'policy', false) AS by_policy
    FROM corrections c LEFT JOIN decisions d ON d.id = c.decision_id
    WHERE c.model_id = :model AND c.key_id IS NOT NULL
    UNION ALL
    SELECT c.key_id, c.reporter, c.prediction_id, p.label, c.state, false, false, false, false
    FROM confirmations c JOIN predictions p ON p.id = c.prediction_id
    WHERE c.model_id = :model AND c.key_id IS NOT NULL
)
SELECT s.key_id AS key, coalesce(k.name, s.key_id) AS app, count(DISTINCT s.reporter) AS reporters,
    count(*) FILTER (WHERE s.corrects) AS corrections,
    count(*) FILTER (WHERE NOT s.corrects) AS confirmations,
    count(*) FILTER (WHERE s.corrects AND s.state = 'pending') AS pending,
    count(*) FILTER (WHERE s.corrects AND s.state = 'disputed') AS disputed,
    count(*) FILTER (WHERE s.corrects AND s.state = 'approved' AND NOT s.by_policy) AS approved,
    count(*) FILTER (WHERE s.corrects AND s.state = 'approved' AND s.by_policy) AS approved_by_policy,
    count(*) FILTER (WHERE s.corrects AND s.state = 'rejected') AS rejected,
    count(*) FILTER (WHERE s.corrects AND s.state = 'retracted') AS retracted,
    count(*) FILTER (WHERE s.marked) AS marked,
    count(*) FILTER (WHERE s.weighed) AS weighed,
    count(*) FILTER (WHERE p.prediction_id IS NOT NULL) AS answered_by_people,
    count(*) FILTER (
        WHERE p.prediction_id IS NOT NULL AND p.label IS DISTINCT FROM s.label
    ) AS contradicted_by_people
FROM said s
LEFT JOIN api_keys k ON k.id = s.key_id
LEFT JOIN people p ON p.prediction_id = s.prediction_id
GROUP BY s.key_id, k.name
"""

_CLASSES = """
SELECT c.key_id AS key, p.label AS predicted,
    count(*) FILTER (WHERE c.mark IS NOT NULL) AS marked,
    count(*) FILTER (WHERE c.suspicion IS NOT NULL) AS weighed,
    count(*) FILTER (WHERE d.prediction_id IS NOT NULL AND d.label IS DISTINCT FROM c.label) AS wrong,
    count(*) FILTER (WHERE d.prediction_id IS NOT NULL) AS answered
FROM corrections c
JOIN predictions p ON p.id = c.prediction_id
LEFT JOIN people d ON d.prediction_id = c.prediction_id
WHERE c.model_id = :model AND c.key_id IS NOT NULL
GROUP BY c.key_id, p.label
ORDER BY c.key_id, p.label
"""

# Predictions of a version that knew other labels, or whose scores were not recorded, have no odds.
_CLAIMS = """
SELECT coalesce(k.name, c.key_id) AS app, c.key_id AS key, p.label AS predicted, c.label AS reported,
    ln(greatest(p.scores[array_position(m.labels, p.label)], 1e-6)
        / greatest(p.scores[array_position(m.labels, c.label)], 1e-6))::float8 AS odds,
    CASE WHEN d.prediction_id IS NOT NULL THEN d.label IS NOT DISTINCT FROM c.label END AS upheld
FROM corrections c
JOIN models m ON m.id = c.model_id
JOIN predictions p ON p.id = c.prediction_id
LEFT JOIN api_keys k ON k.id = c.key_id
LEFT JOIN people d ON d.prediction_id = c.prediction_id
WHERE c.model_id = :model AND c.key_id IS NOT NULL AND c.state <> 'retracted'
AND c.label <> p.label AND cardinality(p.scores) = cardinality(m.labels)
ORDER BY c.created_at DESC LIMIT :newest
"""

_VERSIONS = """
SELECT DISTINCT s.key_id, v.number
FROM versions v
JOIN runs r ON r.id = v.run_id
JOIN snapshots f ON f.model_id = v.model_id AND f.digest = r.snapshot_digest
CROSS JOIN LATERAL unnest(f.sample_ids) AS taught (id)
JOIN samples s ON s.id = taught.id
WHERE v.model_id = :model AND s.key_id IS NOT NULL
ORDER BY s.key_id, v.number
"""
