"""The sentences of the review view; its module gets them as data, so that one place holds them all."""

REVIEW_VIEW = {
    "audit": "Drawn at random",
    "correction": "Reported as wrong",
    "disputed": "Disputed",
    "askAudit": {
        "said": "Nobody has complained about this one.",
        "ask": "The model says {predicted}. Is the prediction right?",
    },
    "askCorrection": {
        "said": "The model said {predicted}.",
        "ask": "Reported as {reported}. Is the report right?",
    },
    "predicted": "predicted",
    "reported": "reported",
    "reportedBy": "Reported by {reporter}",
    "lookTwice": "Look twice. {mark}",
    "approve": "Approve “{label}”",
    "pictureAlt": "The picture to review",
    "pictureGone": "The picture is gone: deleted, or not kept. Reject it: nothing is learned from it then.",
    "did": {
        "approve": "Approved as “{label}”.",
        "relabel": "Relabelled as “{label}”.",
        "reject": "Rejected: nothing is learned from it.",
        "skip": "Skipped: it comes back last.",
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
    "reportArrived": "A report about this picture has just come in.",
    "waitsForSecond": "Taken down; a second reviewer must agree.",
    "leaseFailed": "The next pictures could not be fetched. Trying again.",
    "emptyTitle": "Nothing to review",
    "emptyText": "When an app reports a wrong answer, or a prediction is drawn at random, it appears here "
    "by itself. For more random ones raise audit_share in the policy.",
    "othersTitle": "Nothing for you just now",
    "othersText": "Other reviewers hold the {open} that are open, or you may not decide them. "
    "What they leave comes here by itself.",
}
