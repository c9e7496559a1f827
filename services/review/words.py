"""What the pages say: states, times, triggers and the ledger in plain words."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from backtalk.callers import Caller
from backtalk.identity import KeyStatus, Person
from backtalk.lineage import Taint
from backtalk.promotion import PROMOTABLE
from backtalk.states import ACTIVE_RUN_STATES, RunState, VersionState
from backtalk.tables import LedgerEntry, Run, TriggerCheck, Version
from services.review.language import mark
from services.review.language import translate as _
from services.review.queries import Ruling

ACTIVE = ACTIVE_RUN_STATES

TABS = (
    ("pages.show_queue", "Review"),
    ("pages.show_grid", "Grid"),
    ("pages.show_model", "Overview"),
    ("pages.show_runs", "Runs"),
    ("pages.show_triggers", "Triggers"),
    ("pages.show_ledger", "Ledger"),
    ("pages.show_policy", "Policy"),
)

#: For admins, where no model is open.
SITE_TABS = (
    ("pages.show_home", mark("Models")),
    ("pages.show_people", mark("People")),
    ("pages.show_keys", mark("Keys")),
)

REVIEW_TABS = {"pages.show_queue", "pages.show_grid"}  # for reviewers alone

STATUS_TITLES = {
    401: "Sign in first",
    403: "Not for you",
    404: "Not found",
    409: "Not now",
    412: "It has changed",
    422: "That does not fit",
    428: "Something is missing",
    503: "Back in a moment",
}

#: What a redirect after a button may announce.
DONE = {
    "run": "The run is queued; it begins in a moment.",
    "promote": "The version is live. Every process serves it within two seconds.",
    "rollback": "Rolled back, and on hold: nothing goes live by itself until the hold is lifted.",
    "hold": "The hold is lifted. What waits is considered now.",
    "policy": "The policy is saved.",
    "password": "The password is changed. You are signed out everywhere else.",
    "roles": "Saved. It holds from their next click on.",
    "disabled": "They are signed out and can sign in no more.",
    "enabled": "They can sign in again.",
    "revoked": "The key is revoked. It is refused within five seconds.",
}


@dataclass(frozen=True)
class Said:
    """A state in words: a colour class and an icon beside the text, never colour alone."""

    tone: str
    icon: str
    text: str
    meaning: str = ""

    def translated(self) -> "Said":
        return replace(self, text=_(self.text), meaning=_(self.meaning))


_RUN_STATES = {
    RunState.QUEUED: Said("accent", "wait", "queued", "Waits for a training worker."),
    RunState.TRAINING: Said("accent", "run", "training", "A trainer is fitting the candidate."),
    RunState.JUDGING: Said("accent", "run", "judging", "Candidate and champion answer the same images."),
    RunState.PROMOTING: Said("accent", "up", "promoting", "Passed; it is going live."),
    RunState.PROMOTED: Said("good", "approve", "promoted", "Its version went live."),
    RunState.PASSED: Said("good", "pause", "passed, held", "Passed; a person may promote it."),
    RunState.REJECTED: Said("bad", "reject", "rejected", "Worse than the champion."),
    RunState.INCONCLUSIVE: Said("warn", "unsure", "inconclusive", "The data cannot tell."),
    RunState.SUPERSEDED: Said("", "past", "superseded", "The backbone changed; another run follows."),
    RunState.FAILED: Said("bad", "warn", "failed", "It broke off; the champion keeps serving."),
    RunState.CANCELLED: Said("", "reject", "cancelled", "A person stopped it."),
}
_VERSION_STATES = {
    VersionState.LIVE: Said("good", "live", "live"),
    VersionState.CANDIDATE: Said("accent", "wait", "candidate"),
    VersionState.RETIRED: Said("", "past", "retired"),
    VersionState.REJECTED: Said("bad", "reject", "rejected"),
    VersionState.INCONCLUSIVE: Said("warn", "unsure", "inconclusive"),
    VersionState.QUARANTINED: Said("bad", "warn", "quarantined"),
}


def run_state(state: str) -> Said:
    return _RUN_STATES[RunState(state)]


def version_state(state: str) -> Said:
    return _VERSION_STATES[VersionState(state)]


_KEY_STATES = {
    "live": Said("good", "live", mark("live")),
    "rotating": Said("accent", "past", mark("two secrets")),
    "expired": Said("warn", "wait", mark("expired")),
    "revoked": Said("", "reject", mark("revoked")),
}


def key_state(key: KeyStatus) -> Said:
    return _KEY_STATES[key.state].translated()


def person_state(person: Person) -> Said:
    if person.disabled_at is not None:
        return Said("", "reject", _("disabled"))
    if person.password_given_at is not None:
        return Said("warn", "wait", _("has a given password"))
    return Said("good", "approve", _("active"))


def may_promote(version: Version) -> bool:
    """Whether a person can make it live: the gate's `rejected` is final, and so is a damaged artefact."""
    return version.state in PROMOTABLE and version.pruned_at is None


# --- numbers and times -------------------------------------------------------------------------
def thousands(number: int) -> str:
    """`12,345`, with a thin space where English has a comma."""
    return f"{number:,}".replace(",", "\u202f")


#: Counting stops here: nobody needs it more exactly, and pages stay quick.
COUNTED_MOST = 1000


def bounded(number: int) -> str:
    """A count that stopped one beyond `COUNTED_MOST`: `1,000+`."""
    return f"{thousands(COUNTED_MOST)}+" if number > COUNTED_MOST else thousands(number)


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, as coarse as anybody needs it."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    if seconds < 10:
        return "just now"
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h ago"
    if seconds < 14 * 86400:
        return f"{seconds / 86400:.0f} days ago"
    return f"{at.astimezone(UTC):%-d %b %Y}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def join_labels(labels: list[str], most: int = 6) -> str:
    shown = ", ".join(labels[:most])
    more = len(labels) - most
    return f"{len(labels)} labels: {shown}" + (f" and {more} more" if more > 0 else "")


# --- who and why -------------------------------------------------------------------------------
def actor(name: str) -> str:
    kind, _, who = name.partition(":")
    known = {"user": who, "key": f"key {who}", "cli": "the command line", "policy": "the policy"}
    return known.get(kind, name)


def trigger(key: str) -> str:
    """What a trigger key stands for, in a word or two."""
    kind, _, rest = key.partition(":")
    if kind == "nightly":
        return f"night of {date.fromisoformat(rest):%-d %b}" if rest.count("-") == 2 else "night"
    return {"approved": "enough approved", "manual": "asked for", "withdrawn": "withdrawn"}.get(kind, key)


def trigger_sentence(run: Run) -> str:
    kind, _, rest = run.trigger_key.partition(":")
    who = actor(run.requested_by)
    sentence = {
        "nightly": f"The nightly run of {rest}.",
        "approved": f"Enough statements were approved (up to decision {rest}).",
        "manual": f"Asked for by {who}.",
        "withdrawn": f"Without what was withdrawn (retraction {rest}).",
    }.get(kind, f"Started by {who}.")
    return f"{sentence} Try {run.retry + 1}." if run.retry else sentence


def withdrawn(taint: Taint) -> str:
    """What a version learned and was withdrawn since."""
    own = f"{taint.samples} of its samples were withdrawn since" if taint.samples else ""
    through = (
        f"it is made in part of version {taint.through}, which learned from some" if taint.through else ""
    )
    said = "; ".join(part for part in (own, through) if part)
    return f"{said[:1].upper()}{said[1:]}."


_LEDGER = {
    "create": "Version {version} was the first",
    "promote": "Version {version} took over from {previous}",
    "rollback": "Rolled back from {previous} to version {version}",
}


def ledger_sentence(entry: LedgerEntry) -> str:
    said = _LEDGER[entry.action].format(version=entry.version, previous=entry.previous_version)
    return f"{said}, by {actor(entry.actor)}."


def ledger_action(entry: LedgerEntry) -> str:
    done = {"create": "created", "promote": "promoted", "rollback": "rolled back to"}[entry.action]
    return f"{done} by {actor(entry.actor)}"


def trigger_reason(check: TriggerCheck) -> str:
    """Why a consideration ended as it did."""
    said = str(check.counts.get("sentence") or check.reason)
    return said[:1].upper() + said[1:]


def ruling(decided: Ruling | None, caller: Caller) -> dict[str, Any] | None:
    """A decision that somebody else took first, for the card that says so."""
    if decided is None:
        return None
    own = decided.actor == caller.actor
    who = "you, in another window," if own else actor(decided.actor)
    what = f"as “{decided.label}”" if decided.label else "as teaching nothing"
    seconds = f"{decided.seconds_ago:.0f} s ago" if decided.seconds_ago < 90 else "a while ago"
    return {
        "action": decided.action,
        "label": decided.label,
        "own": own,
        "said": f"Decided {what} by {who} {seconds}.",
    }


# --- progress ----------------------------------------------------------------------------------
#: The parts of a run in their order, as `runs.progress` names them.
PARTS = {
    "queued": "waiting",
    "read": "reading the samples",
    "fit": "fitting",
    "export": "exporting",
    "verify": "verifying",
    "judge": "judging",
    "promote": "promoting",
}


def duration_sentence(run: Run) -> str:
    """How long the run took, with the parts that were timed."""
    if run.started_at is None or run.ended_at is None:
        return ""
    seconds = run.progress.get("seconds", {})
    parts = ", ".join(f"{PARTS.get(name, name)} {duration(s)}" for name, s in seconds.items())
    whole = duration((run.ended_at - run.started_at).total_seconds())
    return f"Took {whole}" + (f": {parts}." if parts else ".")


def progress_sentence(run: Run) -> str:
    if run.started_at is None:
        return f"Asked for {ago(run.created_at)}; no worker has taken it yet."
    said = f"Began {ago(run.started_at)}"
    if run.heartbeat_at is not None:
        said += f"; last sign of life {ago(run.heartbeat_at)}"
    if run.attempt > 1:
        said += f"; attempt {run.attempt}"
    return said + "."
