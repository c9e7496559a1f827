"""What the pages say of the queues."""

from datetime import datetime
from typing import Any

from backtalk.queues import QueueState
from backtalk.states import DAILY_QUEUES, Queue
from services.review import words
from services.review.language import mark
from services.review.language import translate as _

_QUEUES = {
    None: (mark("All that is due"), mark("Corrections, disputed and audits, the oldest first.")),
    Queue.CORRECTIONS: (mark("Corrections"), mark("Somebody reported them as wrong.")),
    Queue.DISPUTED: (mark("Disputed"), mark("Reports, or two reviewers, contradict each other.")),
    Queue.AUDITS: (
        mark("Audits"),
        mark("Drawn at random when they were made: they tell how good the model is."),
    ),
    Queue.UNCERTAIN: (
        mark("Uncertain"),
        mark("The model was not sure, and nobody has spoken of them. Drawn when asked for."),
    ),
    Queue.SUSPECTED: (
        mark("Suspected labels"),
        mark("Training labels that the other samples speak against."),
    ),
}


def describe_queues(states: list[QueueState]) -> list[dict[str, Any]]:
    """The queues in their order, first the one of all that is due, each with a line on how it stands."""
    known = {state.queue: state for state in states}
    daily = [known[queue] for queue in DAILY_QUEUES]
    oldest = [state.oldest_at for state in daily if state.oldest_at]
    shown = [
        _queue(
            None,
            sum(state.size for state in daily),
            any(state.more for state in daily),
            min(oldest) if oldest else None,
            sum(state.decided_hour for state in daily),
        )
    ]
    return shown + [_queue(s.queue, s.size, s.more, s.oldest_at, s.decided_hour) for s in states]


def _queue(
    queue: Queue | None, size: int, more: bool, oldest_at: datetime | None, decided_hour: int
) -> dict[str, Any]:
    name, meaning = _QUEUES[queue]
    shown = f"{words.thousands(size)}{'+' if more else ''}"
    decided = words.thousands(decided_hour)
    line = _("%(n)s open, %(decided)s decided in the last hour.", n=shown, decided=decided)
    if oldest_at is not None:
        line = _(
            "%(n)s open, oldest %(when)s, %(decided)s decided in the last hour.",
            n=shown,
            when=words.ago(oldest_at),
            decided=decided,
        )
    return {"queue": queue or "", "name": _(name), "meaning": _(meaning), "size": shown, "line": line}
