"""The sentences of the review view; its module gets them as data, so that one place holds them all."""

from typing import Any

from backtalk.undoing import Learned
from services.review.language import join_sentences, translate_many
from services.review.language import translate as _
from services.review.words import actor

#: What focus view and grid both say.
SENDING = {
    "did": {
        "approve": "Approved as “{label}”.",
        "relabel": "Relabelled as “{label}”.",
        "reject": "Rejected: nothing is learned from it.",
        "skip": "Skipped: it comes back last.",
        "flag": "Flagged: an expert decides it.",
    },
    "sent": "All sent",
    "sending": "Sending {n}",
    "notSent": "{n} not sent",
    "stuck": {
        "network": "{n} of your answers could not be sent yet. They are kept here and tried again.",
        "signed-out": "You are signed out. {n} of your answers are kept here; sign in and they are sent.",
        "stale": "This page is out of date. {n} of your answers are kept; reload the page and they are sent.",
    },
    "late": "{what} Yours did not count: {mine}",
    "refused": "Not taken: {mine} {why}",
    "changedMeanwhile": "A new report came in while you answered, so it did not count. It comes again.",
    "undone": "Taken back: {mine}",
    "notUndone": "Not taken back: {mine} {why}",
    "nothingToUndo": "Nothing to take back: the last ten answers of this tab can be.",
    "undoing": "{mine} This was taken back.",
    "waitsForSecond": "Taken down; a second reviewer must agree.",
    "manyOpen": "{n}+",
}

REVIEW_VIEW = SENDING | {
    "kinds": {
        "audit": "Drawn at random",
        "correction": "Reported as wrong",
        "uncertain": "The model was not sure",
        "suspected": "Suspected label",
    },
    "disputed": "Disputed",
    "flagged": "Flagged by {flagged}",
    "asks": {
        "audit": {
            "said": "Nobody has complained about this one.",
            "ask": "The model says {predicted}. Is the prediction right?",
        },
        "correction": {
            "said": "The model said {predicted}.",
            "ask": "Reported as {reported}. Is the report right?",
        },
        "uncertain": {
            "said": "Nobody has spoken of this one.",
            "ask": "The model says {predicted}, but only just. Is that right?",
        },
        "suspected": {
            "said": "Without this picture, the model would read it as {predicted}.",
            "ask": "It is trained on as {reported}. Is that label right?",
        },
    },
    "trained": "trained on",
    "predicted": "predicted",
    "reported": "reported",
    "reportedBy": "Reported by {reporter}",
    "lookTwice": "Look twice. {mark}",
    "approve": "Approve “{label}”",
    "swipe": {"approve": "Approve", "reject": "Reject", "skip": "Skip"},
    "pictureAlt": "The picture to review",
    "pictureGone": "The picture is gone: deleted, or not kept. Reject it: nothing is learned from it then.",
    "reportArrived": "A report about this picture has just come in.",
    "leaseFailed": "The next pictures could not be fetched. Trying again.",
    "emptyTitle": "Nothing to review",
    "emptyText": "When an app reports a wrong answer, or a prediction is drawn at random, it appears here "
    "by itself. For more random ones raise audit_share in the policy.",
    "emptyQueueTitle": "Nothing in this queue",
    "emptyQueueText": "What comes in appears here by itself. The key q goes to the next queue.",
    "othersTitle": "Nothing for you just now",
    "othersText": "Other reviewers hold the {open} that are open, they wait for an expert, or you may not "
    "decide them. What is left comes here by itself.",
}

GRID_VIEW = SENDING | {
    "approve": "Approve {n}",
    "batchOf": "{n} answers at once.",
    "batch": {
        "approve": "Approved {n}.",
        "relabel": "Relabelled {n} as “{label}”.",
        "reject": "Rejected {n}: nothing is learned from them.",
        "skip": "Skipped {n}.",
        "flag": "Flagged {n} for an expert.",
    },
    "pairs": {
        "correction": "{predicted} → {reported}",
        "audit": "{predicted}?",
        "uncertain": "{predicted}?",
        "suspected": "{reported}? or {predicted}",
    },
    "tileAlts": {
        "correction": "Reported as {reported}; the model said {predicted}",
        "audit": "The model says {predicted}; drawn at random",
        "uncertain": "The model says {predicted}, but only just",
        "suspected": "Trained on as {reported}; the other samples speak for {predicted}",
    },
    "selected": "{n} of {all} selected",
    "noneSelected": "Select at least one tile first.",
    "in": "in",
    "out": "left out",
    "disputed": "disputed",
    "lookTwice": "look twice",
    "flagged": "flagged",
    "taken": "{n} went to other reviewers meanwhile and are not shown any more.",
    "leaseFailed": "The pictures could not be fetched. Trying again.",
    "alikeOldest": "There is no index yet for the embeddings of this model, so only its 2,000 oldest open "
    "items were compared.",
    "alikeByHash": "The live version has not seen this picture, so what lies nearest to it is not known. "
    "Shown are its near-duplicates.",
    "alikeGone": "That item is not here any more; nothing can be compared with it.",
}


def learned_sentence(learned: Learned) -> str | None:
    """What an undo does not undo; None where nothing has learned from the answer."""
    said = []
    if learned.training:
        said.append(_("A run is learning from it just now, and goes on with it."))
    if learned.versions:
        said.append(_say_versions(learned))
    if learned.judged:
        said.append(
            translate_many(
                "%(n)s run was judged with it; those verdicts stand.",
                "%(n)s runs were judged with it; those verdicts stand.",
                learned.judged,
            )
        )
    if not said:
        return None
    begin = _("Your answer is taken back, but not what was made of it.")
    return join_sentences([begin, *said, _("The next run leaves it out.")])


def _say_versions(learned: Learned) -> str:
    names, n = _(", ").join(str(number) for number in learned.versions), len(learned.versions)
    if not learned.live:
        return translate_many(
            "Version %(names)s has learned from it; the live version has not.",
            "Versions %(names)s have learned from it; the live version has not.",
            n,
            names=names,
        )
    return translate_many(
        "Version %(names)s has learned from it, and so has the live version: it answers as before until "
        "another one is promoted, or until somebody rolls back.",
        "Versions %(names)s have learned from it, and so has the live version: it answers as before until "
        "another one is promoted, or until somebody rolls back.",
        n,
        names=names,
    )


def ruling(late: dict[str, Any]) -> dict[str, Any]:
    """A decision that somebody else took first, for the card that says so. `late`: what ItemChanged adds."""
    label, seconds = late["decided_as"], late["seconds_ago"]
    by = actor(late["decided_by"]) if "decided_by" in late else _("another reviewer")
    who = _("you, in another window,") if late["own"] else by
    when = _("%(n)s s ago", n=seconds) if seconds < 90 else _("a while ago")
    said = _("Decided as teaching nothing by %(who)s %(when)s.", who=who, when=when)
    if label:
        said = _("Decided as “%(label)s” by %(who)s %(when)s.", label=label, who=who, when=when)
    return {
        "action": late["action"],
        "label": label,
        "own": late["own"],
        "said": said,
    }
