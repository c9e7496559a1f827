"""What the pages say: states, times, triggers and the ledger in plain words."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time

from backtalk.identity import KeyStatus, Person
from backtalk.interventions import PROMOTABLE
from backtalk.items import DISAGREEMENT
from backtalk.lineage import Taint
from backtalk.states import ACTIVE_RUN_STATES, RunKind, RunState, VersionState
from backtalk.tables import LedgerEntry, Run, TriggerCheck, Version
from services.review.language import join_sentences, mark, write_number, write_share, write_time
from services.review.language import translate as _
from services.review.recorded import record

ACTIVE = ACTIVE_RUN_STATES

TABS = (
    ("pages.show_queue", "Review"),
    ("pages.show_grid", "Grid"),
    ("pages.show_reviewers", "Reviewers"),
    ("pages.show_model", "Overview"),
    ("pages.show_versions", "Versions"),
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
ADMIN_TABS = {"pages.show_reviewers"}

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

SOMETHING_WRONG = mark("Something went wrong")

#: What a redirect after a button may announce.
DONE = {
    "run": "The run is queued; it begins in a moment.",
    "promote": "The version is live. Every process serves it within two seconds.",
    "promote-asked": "A worker is asked to make the version live; that takes a few seconds.",
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


RUN_STATES = {
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
VERSION_STATES = {
    VersionState.LIVE: Said("good", "live", "live"),
    VersionState.CANDIDATE: Said("accent", "wait", "candidate"),
    VersionState.RETIRED: Said("", "past", "retired"),
    VersionState.REJECTED: Said("bad", "reject", "rejected"),
    VersionState.INCONCLUSIVE: Said("warn", "unsure", "inconclusive"),
    VersionState.QUARANTINED: Said("bad", "warn", "quarantined"),
}


def run_state(state: str) -> Said:
    return RUN_STATES[RunState(state)].translated()


def version_state(state: str) -> Said:
    return VERSION_STATES[VersionState(state)].translated()


def run_kind(kind: str) -> str:
    return {RunKind.HEAD: _("head"), RunKind.FULL: _("full")}[RunKind(kind)]


def run_title(kind: str) -> str:
    return {RunKind.HEAD: _("Head run"), RunKind.FULL: _("Full run")}[RunKind(kind)]


def status_title(status: int) -> str:
    return _(STATUS_TITLES.get(status, SOMETHING_WRONG))


def done(what: str) -> str | None:
    """What a redirect after a button announces; None if nothing."""
    return _(DONE[what]) if what in DONE else None


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
    return write_number(number)


#: Counting stops here: nobody needs it more exactly, and pages stay quick.
COUNTED_MOST = 1000


def bounded(number: int, most: int = COUNTED_MOST) -> str:
    """A count that stopped one beyond `most`: `1,000+`."""
    return f"{thousands(most)}+" if number > most else thousands(number)


def share(value: float) -> str:
    return write_share(value)


#: Patterns of the CLDR.
DATE = mark("d MMM y")
DAY = mark("d MMM")
DATE_AND_TIME = mark("d MMM y, HH:mm")


def stamp(at: datetime) -> str:
    return f"{write_time(at, DATE_AND_TIME)} UTC"


def say_day(at: date) -> str:
    """`24 Nov`"""
    return write_time(datetime.combine(at, time(), UTC), DAY)


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, as coarse as anybody needs it."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    if seconds < 10:
        return _("just now")
    if seconds < 90:
        return _("%(n)s s ago", n=round(seconds))
    if seconds < 90 * 60:
        return _("%(n)s min ago", n=round(seconds / 60))
    if seconds < 36 * 3600:
        return _("%(n)s h ago", n=round(seconds / 3600))
    if seconds < 14 * 86400:
        return _("%(n)s days ago", n=round(seconds / 86400))
    return write_time(at, DATE)


def duration(seconds: float) -> str:
    if seconds < 60:
        return _("%(n)s s", n=f"{seconds:.1f}")
    return (
        _("%(n)s min", n=round(seconds / 60)) if seconds < 5400 else _("%(n)s h", n=f"{seconds / 3600:.1f}")
    )


def join_labels(labels: list[str], most: int = 6) -> str:
    shown, more = join(labels[:most]), len(labels) - most
    if more > 0:
        return _("%(n)s labels: %(shown)s and %(more)s more", n=len(labels), shown=shown, more=more)
    return _("%(n)s labels: %(shown)s", n=len(labels), shown=shown)


def join(parts: Iterable[str]) -> str:
    """`a, b, c` as the language sets it."""
    return _(", ").join(parts)


# --- who and why -------------------------------------------------------------------------------
def split_key(key: str) -> tuple[str, str]:
    """What stands before and after the first colon."""
    return key.split(":", 1)[0], key.partition(":")[2]


def actor(name: str) -> str:
    kind, who = split_key(name)
    known = {
        "user": who,
        "key": _("key %(id)s", id=who),
        "cli": _("the command line"),
        "policy": _("the policy"),
        DISAGREEMENT: _("two reviewers who disagree"),
    }
    return known.get(kind, name)


def trigger(key: str) -> str:
    """What a trigger key stands for, in a word or two."""
    kind, rest = split_key(key)
    if kind == "nightly":
        if rest.count("-") != 2:
            return _("night")
        return _("night of %(day)s", day=say_day(date.fromisoformat(rest)))
    known = {"approved": _("enough approved"), "manual": _("asked for"), "withdrawn": _("withdrawn")}
    return known.get(kind, key)


def trigger_sentence(run: Run) -> str:
    kind, rest = split_key(run.trigger_key)
    who = actor(run.requested_by)
    sentence = {
        "nightly": _("The nightly run of %(day)s.", day=rest),
        "approved": _("Enough statements were approved (up to decision %(id)s).", id=rest),
        "manual": _("Asked for by %(who)s.", who=who),
        "withdrawn": _("Without what was withdrawn (retraction %(id)s).", id=rest),
    }.get(kind) or _("Started by %(who)s.", who=who)
    return join_sentences([sentence, _("Try %(n)s.", n=run.retry + 1)]) if run.retry else sentence


def withdrawn(taint: Taint) -> str:
    """What a version learned and was withdrawn since."""
    said = []
    if taint.samples:
        said.append(_("%(n)s of its samples were withdrawn since.", n=taint.samples))
    if taint.through:
        said.append(_("It is made in part of version %(n)s, which learned from some.", n=taint.through))
    return join_sentences(said)


_LEDGER = {
    "create": mark("Version %(version)s was the first, by %(who)s."),
    "promote": mark("Version %(version)s took over from %(previous)s, by %(who)s."),
    "rollback": mark("Rolled back from %(previous)s to version %(version)s, by %(who)s."),
}
_LEDGER_ACTIONS = {
    "create": mark("created by %(who)s"),
    "promote": mark("promoted by %(who)s"),
    "rollback": mark("rolled back to by %(who)s"),
}


def ledger_sentence(entry: LedgerEntry) -> str:
    who = actor(entry.actor)
    return _(_LEDGER[entry.action], version=entry.version, previous=entry.previous_version, who=who)


def ledger_action(entry: LedgerEntry) -> str:
    return _(_LEDGER_ACTIONS[entry.action], who=actor(entry.actor))


def trigger_reason(check: TriggerCheck) -> str:
    """Why a consideration ended as it did."""
    said = str(check.counts.get("sentence") or check.reason)
    return record(said[:1].upper() + said[1:])
