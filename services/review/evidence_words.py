"""What the pages of evidence say: figures of versions, pictures that flipped, how a training stands."""

from datetime import date
from typing import Any

from backtalk.complaints import Day
from backtalk.states import CorrectionState, DeviceForm, Origin, RunState, Split
from backtalk.tables import Run
from services.review.language import mark
from services.review.language import translate as _
from services.review.words import ago, duration, join, say_day, share, thousands

#: The parts of a run, as `runs.progress` names them.
PARTS = {
    "queued": "waiting",
    "decode": "decoding the pictures",
    "head": "fitting a first head",
    "tune": "moving the backbone",
    "embed": "embedding the pictures",
    "read": "reading the samples",
    "fit": "fitting",
    "export": "exporting",
    "verify": "verifying",
    "judge": "judging",
    "promote": "promoting",
}
#: In their order, by its kind.
HEAD_PARTS = ("queued", "read", "fit", "export", "verify", "judge", "promote")
FULL_PARTS = tuple(PARTS)

SPLITS = {
    Split.TRAIN: "training",
    Split.VALIDATION: "choosing between candidates",
    Split.HOLDOUT: "judging (holdout)",
    Split.REGRESSION: "judging (reported mistakes)",
    Split.KEPT: "judging (confirmed answers)",
}
ORIGINS = {
    Origin.BASE: "the folder it began with",
    Origin.CORRECTION: "a correction",
    Origin.AUDIT: "an audit",
    Origin.CONFIRMATION: "a confirmation",
}

#: What a file for devices is like.
DEVICE_FORMS = {
    DeviceForm.FLOAT32: "as it serves",
    DeviceForm.FLOAT16: "half the size",
    DeviceForm.DYNAMIC: "8-bit weights, a quarter of the size",
    DeviceForm.INT8: "integers throughout, as it serves",
}

#: What became of a correction.
STATEMENTS = {
    CorrectionState.PENDING: "pending",
    CorrectionState.DISPUTED: "disputed",
    CorrectionState.APPROVED: "approved",
    CorrectionState.REJECTED: "rejected",
    CorrectionState.RETRACTED: "retracted",
}

#: The tab under which a page without one of its own stands.
_PARENTS = {
    "pages.show_version": "pages.show_versions",
    "pages.verify_version": "pages.show_versions",
    "pages.send_device_file": "pages.show_versions",
    "pages.show_comparison": "pages.show_versions",
    "pages.show_comparison_flips": "pages.show_versions",
    "pages.show_run": "pages.show_runs",
    "pages.show_run_flips": "pages.show_runs",
}


def find_tab(endpoint: str | None) -> str | None:
    """The tab that a page belongs to; None if it has one of its own."""
    return _PARENTS.get(endpoint or "")


#: Entries of the ledger, by their action.
ACTIONS = {"create": "First versions", "promote": "Promotions", "rollback": "Rollbacks"}

_SHELVES = {
    ("holdout", "broken"): mark("%(n)s of the holdout broken"),
    ("holdout", "fixed"): mark("%(n)s of the holdout fixed"),
    ("regression", "broken"): mark("%(n)s reported mistakes broken again"),
    ("regression", "fixed"): mark("%(n)s reported mistakes fixed"),
    ("kept", "broken"): mark("%(n)s confirmed answers broken"),
    ("kept", "fixed"): mark("%(n)s confirmed answers fixed"),
}


def shelf(of: str, way: str, count: int) -> str:
    """The title of a row of flipped pictures."""
    return _(_SHELVES[of, way], n=thousands(count))


_CARD = {
    "run": mark("Run"),
    "parent": mark("Made from version"),
    "seed": mark("Seed"),
    "snapshot_digest": mark("Snapshot"),
    "backbone_digest": mark("Backbone"),
    "code": "Backtalk",
}


def list_card(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What `card.json` says, in lines; nested parts as `name: value`."""
    lines = [(_(title), str(card[key])) for key, title in _CARD.items() if card.get(key) is not None]
    for key, title in (("chosen", _("Chosen")), ("counts", _("Counts")), ("libraries", _("Libraries"))):
        part = card.get(key)
        if isinstance(part, dict) and part:
            lines.append((title, join(f"{name} {value}" for name, value in part.items())))
    epochs = (card.get("tuning") or {}).get("history", ())
    lines += [
        (
            _("Epoch %(n)s", n=epoch["epoch"]),
            _("%(share)s right on validation", share=share(epoch["accuracy"])),
        )
        for epoch in epochs
        if "accuracy" in epoch
    ]
    return lines


def points(value: float) -> str:
    """A difference of shares: `+2.1 pt`, with a true minus sign."""
    return _("%(n)s pt", n=f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}"))


def percent(value: float) -> str:
    """Without digits behind the point, and never broken over two lines."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def log_loss(value: float) -> str:
    return f"{value:.4f}"


def signed(number: int) -> str:
    """`+3`, `−3` with a true minus sign, `0`."""
    return f"{number:+d}".replace("-", "\N{MINUS SIGN}") if number else "0"


def short_number(value: float) -> str:
    """As few digits as tell it apart: `0.25`, `7.5`, `120`."""
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def interval(share_of: float, low: float, high: float) -> str:
    """A share with its interval: `91.2 % (88.0 to 93.6)`."""
    return _(
        "%(share)s (%(low)s to %(high)s)",
        share=share(share_of),
        low=f"{100 * low:.1f}",
        high=f"{100 * high:.1f}",
    )


def device_form(form: DeviceForm) -> str:
    return _(DEVICE_FORMS[form])


def size(number: int | None) -> str:
    """Of a file: `17.2 MB`."""
    if number is None:
        return "–"
    value, units = float(number), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def day(at: date) -> str:
    return say_day(at)


def day_of_corrections(one: Day) -> str:
    """What a column of the chart stands for."""
    rate = short_number(one.per_thousand or 0.0)
    return _(
        "%(day)s: %(rate)s corrections per 1,000 predictions (%(corrected)s of %(predictions)s).",
        day=day(one.day),
        rate=rate,
        corrected=thousands(one.corrected),
        predictions=thousands(one.predictions),
    )


def flips_sentence(images: int, fixed: int, broken: int, live: int) -> str:
    """What a change of champion would do on the holdout."""
    return _(
        "Of the %(n)s holdout pictures of now, %(fixed)s that version %(live)s gets wrong are fixed, "
        "and %(broken)s that it gets right are broken.",
        n=thousands(images),
        fixed=thousands(fixed),
        live=live,
        broken=thousands(broken),
    )


def nothing_in_common(left_out: int) -> str:
    """Why two versions share no holdout picture."""
    if left_out:
        return _(
            "The two stand on different backbones, and none of the %(n)s holdout pictures has been embedded "
            "by both. The next verdict embeds what it asks about.",
            n=thousands(left_out),
        )
    return _("The holdout has no pictures yet. Answer audits, so that it fills.")


def list_standing(run: Run) -> list[tuple[str, str]]:
    """How the training stands while the backbone moves; nothing in other parts, which are short."""
    told = run.progress
    if run.state != RunState.TRAINING or told.get("part") != "tune" or "step" not in told:
        return []
    standing = [
        (_("Epoch"), _("%(n)s of %(all)s", n=told["epoch"], all=told["epochs"])),
        (_("Step"), _("%(n)s of %(all)s", n=thousands(told["step"]), all=thousands(told["steps"]))),
        (_("Loss"), f"{told['loss']:.4f}"),
    ]
    if "accuracy" in told:
        standing.append((_("Right on validation"), share(told["accuracy"])))
    return [*standing, (_("Time left"), _("about %(time)s", time=duration(told["time_left_s"])))]


def duration_sentence(run: Run) -> str:
    """How long the run took, with the parts that were timed."""
    if run.started_at is None or run.ended_at is None:
        return ""
    seconds = run.progress.get("seconds", {})
    parts = join(f"{_(PARTS.get(name, name))} {duration(s)}" for name, s in seconds.items())
    whole = duration((run.ended_at - run.started_at).total_seconds())
    return _("Took %(whole)s: %(parts)s.", whole=whole, parts=parts) if parts else _("Took %(n)s.", n=whole)


def progress_sentence(run: Run) -> str:
    if run.started_at is None:
        return _("Asked for %(when)s; no worker has taken it yet.", when=ago(run.created_at))
    said = [_("Began %(when)s", when=ago(run.started_at))]
    if run.heartbeat_at is not None:
        said.append(_("last sign of life %(when)s", when=ago(run.heartbeat_at)))
    if run.attempt > 1:
        said.append(_("attempt %(n)s", n=run.attempt))
    return _("%(parts)s.", parts=_("; ").join(said))
