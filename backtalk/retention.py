"""Which pictures go by age: `retention_days` and `keep_images` of the policies, over all models at once.

An image may have been predicted on for several models: it goes when none of them keeps it any longer. What
somebody spoke of (a correction, a confirmation, an audit) and what is a sample stays.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from backtalk.policy import Policy
from backtalk.system import System
from backtalk.tables import Model
from backtalk.tombstones import bury_images, drop_pixels, lock_images

log = logging.getLogger(__name__)

LOOKED_AT = 2000  # images in one look
CHANGED = 200  # images in one transaction: whoever speaks of one of them waits meanwhile
AT_MOST_S = 150.0  # then the next tick goes on
_FIRST = UUID(int=0)

_SPOKEN = """(
    p.audit
    OR EXISTS (SELECT FROM corrections c WHERE c.prediction_id = p.id)
    OR EXISTS (SELECT FROM confirmations c WHERE c.prediction_id = p.id)
)"""

_RULES = """
WITH rules AS (
    SELECT * FROM unnest(CAST(:models AS bigint[]), CAST(:keeps AS text[]), CAST(:days AS int[]))
    AS r(model_id, keep, days)
)
"""

_EXPIRED = f"""
EXISTS (SELECT FROM predictions p WHERE p.image_id = i.id)
AND NOT EXISTS (
    SELECT FROM predictions p LEFT JOIN rules r ON r.model_id = p.model_id
    WHERE p.image_id = i.id
    AND (p.created_at > now() - make_interval(days => coalesce(r.days, 36500)) OR {_SPOKEN})
)
AND NOT EXISTS (SELECT FROM samples s WHERE s.image_id = i.id AND s.retracted_at IS NULL)
"""  # noqa: S608  # constants of this module

_SILENT = f"""
i.store_key IS NOT NULL
AND EXISTS (SELECT FROM predictions p WHERE p.image_id = i.id)
AND NOT EXISTS (
    SELECT FROM predictions p LEFT JOIN rules r ON r.model_id = p.model_id
    WHERE p.image_id = i.id AND (
        coalesce(r.keep, 'all') = 'all'
        OR (r.keep = 'feedback' AND p.created_at > now() - make_interval(secs => :wait_s))
        OR {_SPOKEN}
    )
)
AND NOT EXISTS (SELECT FROM samples s WHERE s.image_id = i.id AND s.retracted_at IS NULL)
"""  # noqa: S608

_LOOK = """
SELECT i.id, ({condition}) AS goes
FROM (
    SELECT id, store_key FROM images
    WHERE deleted_at IS NULL AND id > :after AND created_at < now() - make_interval(secs => :age_s)
    ORDER BY id LIMIT :most
) i ORDER BY i.id
"""
_AGAIN = "SELECT i.id FROM images i WHERE i.id = ANY(:ids) AND i.deleted_at IS NULL AND {condition}"


@dataclass(frozen=True)
class _Rules:
    """What the policies say, as arrays side by side."""

    models: list[int]
    keeps: list[str]
    days: list[int]

    @classmethod
    def read(cls, session: Session) -> "_Rules":
        rows = session.execute(select(Model.id, Model.policy).order_by(Model.id)).all()
        policies = [Policy.parse(row.policy) for row in rows]
        return cls(
            [r.id for r in rows], [p.keep_images for p in policies], [p.retention_days for p in policies]
        )

    def parameters(self) -> dict[str, object]:
        return {"models": self.models, "keeps": self.keeps, "days": self.days}


def expire_images(system: System) -> int:
    """Turn images into tombstones that only predictions without feedback name, all of them older than
    `retention_days`; returns how many."""
    with system.db.reading() as session:
        rules = _Rules.read(session)
    if not rules.models:
        return 0
    age_s = 86_400.0 * min(rules.days)
    done = _walk(system, rules, _EXPIRED, age_s, {}, bury_images)
    if done:
        log.info("%d images passed their retention_days", done)
    return done


def drop_silent_pixels(system: System) -> int:
    """Forget the pixels of images that nobody spoke of, where no model that saw them keeps them; how many.

    Under `keep_images=feedback` somebody has `BACKTALK_FEEDBACK_WAIT_DAYS` to speak.
    """
    with system.db.reading() as session:
        rules = _Rules.read(session)
    if not {"feedback", "none"} & set(rules.keeps):
        return 0
    wait_s = 86_400.0 * system.settings.feedback_wait_days
    done = _walk(system, rules, _SILENT, 0.0, {"wait_s": wait_s}, drop_pixels)
    if done:
        log.info("the pixels of %d images that nobody spoke of are dropped", done)
    return done


def _walk(
    system: System,
    rules: _Rules,
    condition: str,
    age_s: float,
    more: dict[str, object],
    change: Callable[[Session, Sequence[UUID]], None],
) -> int:
    """Look at images from the oldest on, and change those that `condition` is true of."""
    look = text(_RULES + _LOOK.format(condition=condition))
    given: dict[str, Any] = rules.parameters() | more
    after, done, until = _FIRST, 0, time.monotonic() + AT_MOST_S
    while time.monotonic() < until:
        with system.db.reading() as session:
            rows = session.execute(look, given | {"after": after, "age_s": age_s, "most": LOOKED_AT}).all()
        going = [row.id for row in rows if row.goes]
        for start in range(0, len(going), CHANGED):
            done += _change(system, going[start : start + CHANGED], condition, given, change)
        if len(rows) < LOOKED_AT:
            break
        after = rows[-1].id
    return done


def _change(
    system: System,
    image_ids: list[UUID],
    condition: str,
    given: dict[str, Any],
    change: Callable[[Session, Sequence[UUID]], None],
) -> int:
    """Somebody may have spoken, or predicted, since the look: with the locks held it is asked again."""
    with system.db.transaction() as session:
        locked = lock_images(session, image_ids)
        again = text(_RULES + _AGAIN.format(condition=condition))
        going = list(session.scalars(again, given | {"ids": locked}))
        if going:
            change(session, going)
    return len(going)
