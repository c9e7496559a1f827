"""What the pages of evidence say: figures of versions, pictures that flipped, how a training stands."""

from datetime import date
from typing import Any

from backtalk.complaints import Day
from backtalk.states import Origin, RunState, Split
from backtalk.tables import Run
from services.review.words import PARTS, duration, share, thousands

#: The parts of a run in their order, by its kind.
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

#: The tab under which a page without one of its own stands.
PARENTS = {
    "pages.show_version": "pages.show_versions",
    "pages.verify_version": "pages.show_versions",
    "pages.show_comparison": "pages.show_versions",
    "pages.show_comparison_flips": "pages.show_versions",
    "pages.show_run": "pages.show_runs",
    "pages.show_run_flips": "pages.show_runs",
}

#: Entries of the ledger, by their action.
ACTIONS = {"create": "First versions", "promote": "Promotions", "rollback": "Rollbacks"}

_SHELVES = {
    ("holdout", "broken"): "{count} of the holdout broken",
    ("holdout", "fixed"): "{count} of the holdout fixed",
    ("regression", "broken"): "{count} reported mistakes broken again",
    ("regression", "fixed"): "{count} reported mistakes fixed",
    ("kept", "broken"): "{count} confirmed answers broken",
    ("kept", "fixed"): "{count} confirmed answers fixed",
}


def shelf(of: str, way: str, count: int) -> str:
    """The title of a row of flipped pictures."""
    return _SHELVES[of, way].format(count=thousands(count))


_CARD = {
    "run": "Run",
    "parent": "Made from version",
    "seed": "Seed",
    "snapshot_digest": "Snapshot",
    "backbone_digest": "Backbone",
    "code": "Backtalk",
}


def list_card(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What `card.json` says, in lines; nested parts as `name: value`."""
    lines = [(title, str(card[key])) for key, title in _CARD.items() if card.get(key) is not None]
    for key, title in (("chosen", "Chosen"), ("counts", "Counts"), ("libraries", "Libraries")):
        part = card.get(key)
        if isinstance(part, dict) and part:
            lines.append((title, ", ".join(f"{name} {value}" for name, value in part.items())))
    epochs = (card.get("tuning") or {}).get("history", ())
    lines += [
        (f"Epoch {epoch['epoch']}", f"{share(epoch['accuracy'])} right on validation")
        for epoch in epochs
        if "accuracy" in epoch
    ]
    return lines


def points(value: float) -> str:
    """A difference of shares: `+2.1 pt`, with a true minus sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f} pt".replace("-", "\N{MINUS SIGN}")


def percent(value: float) -> str:
    """Without digits behind the point, and never broken over two lines."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def signed(number: int) -> str:
    """`+3`, `−3` with a true minus sign, `0`."""
    return f"{number:+d}".replace("-", "\N{MINUS SIGN}") if number else "0"


def short_number(value: float) -> str:
    """As few digits as tell it apart: `0.25`, `7.5`, `120`."""
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def interval(share_of: float, low: float, high: float) -> str:
    """A share with its interval: `91.2 % (88.0 to 93.6)`."""
    return f"{100 * share_of:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


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
    return f"{at:%-d %b}"


def day_of_corrections(one: Day) -> str:
    """What a column of the chart stands for."""
    rate = short_number(one.per_thousand or 0.0)
    return (
        f"{day(one.day)}: {rate} corrections per 1,000 predictions "
        f"({thousands(one.corrected)} of {thousands(one.predictions)})."
    )


def flips_sentence(images: int, fixed: int, broken: int, live: int) -> str:
    """What a change of champion would do on the holdout."""
    return (
        f"Of the {thousands(images)} holdout pictures of now, {thousands(fixed)} that version {live} gets "
        f"wrong are fixed, and {thousands(broken)} that it gets right are broken."
    )


def nothing_in_common(left_out: int) -> str:
    """Why two versions share no holdout picture."""
    if left_out:
        return (
            f"The two stand on different backbones, and none of the {thousands(left_out)} holdout pictures "
            "has been embedded by both. The next verdict embeds what it asks about."
        )
    return "The holdout has no pictures yet. Answer audits, so that it fills."


def list_standing(run: Run) -> list[tuple[str, str]]:
    """How the training stands while the backbone moves; nothing in other parts, which are short."""
    told = run.progress
    if run.state != RunState.TRAINING or told.get("part") != "tune" or "step" not in told:
        return []
    standing = [
        ("Epoch", f"{told['epoch']} of {told['epochs']}"),
        ("Step", f"{thousands(told['step'])} of {thousands(told['steps'])}"),
        ("Loss", f"{told['loss']:.4f}"),
    ]
    if "accuracy" in told:
        standing.append(("Right on validation", share(told["accuracy"])))
    return [*standing, ("Time left", f"about {duration(told['time_left_s'])}")]
