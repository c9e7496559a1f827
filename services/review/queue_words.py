"""What the pages say of the queues."""

from datetime import datetime
from typing import Any

from backtalk.queues import QueueState
from backtalk.states import DAILY_QUEUES, Queue
from services.review import words

_QUEUES = {
    None: ("All that is due", "Corrections, disputed and audits, the oldest first."),
    Queue.CORRECTIONS: ("Corrections", "Somebody reported them as wrong."),
    Queue.DISPUTED: ("Disputed", "Reports, or two reviewers, contradict each other."),
    Queue.AUDITS: ("Audits", "Drawn at random when they were made: they tell how good the model is."),
    Queue.UNCERTAIN: (
        "Uncertain",
        "The model was not sure, and nobody has spoken of them. Drawn when asked for.",
    ),
    Queue.SUSPECTED: ("Suspected labels", "Training labels that the other samples speak against."),
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
    lines = [f"{words.thousands(size)}{'+' if more else ''} open"]
    if oldest_at is not None:
        lines.append(f"oldest {words.ago(oldest_at)}")
    lines.append(f"{words.thousands(decided_hour)} decided in the last hour")
    return {
        "queue": queue or "",
        "name": name,
        "meaning": meaning,
        "size": f"{words.thousands(size)}{'+' if more else ''}",
        "line": ", ".join(lines),
    }
