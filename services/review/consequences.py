"""What a promotion and a rollback will do, in sentences and numbers, before anybody presses the button."""

from sqlalchemy.orm import Session

from backtalk import catalogue, lineage
from backtalk.tables import Model, Version
from services.review import evidence_words as say
from services.review import words
from services.review.compare import find_contrast
from services.review.language import translate as _


def list_promotion(session: Session, model: Model, version: Version) -> list[str]:
    taint = lineage.find_tainted(session, model.id).get(version.number)
    return [
        _(
            "Version %(one)s answers instead of version %(other)s, within two seconds.",
            one=version.number,
            other=model.live_version,
        ),
        _("No request is dropped meanwhile."),
        *contrast_with_live(session, model, version),
        _(
            "The gate left it %(state)s; you promote it in your own name, and the ledger says so.",
            state=words.version_state(version.state).text,
        ),
        *([words.withdrawn(taint)] if taint else []),
        _("Its files are checked against their sums first."),
        say_hold(model),
        _("The way back is “Roll back” to version %(n)s.", n=model.live_version),
    ]


def list_rollback(session: Session, model: Model, target: int) -> list[str]:
    approved = catalogue.count_decided_new(session, model)
    return [
        _(
            "Version %(one)s answers again instead of version %(other)s, within two seconds.",
            one=target,
            other=model.live_version,
        ),
        _("No request is dropped meanwhile."),
        *contrast_with_live(session, model, catalogue.get_version(session, model, target)),
        _("The model goes on hold: no run starts and nothing goes live by itself until somebody lifts it."),
        _("%(n)s approved statements wait for a run, and go on waiting.", n=words.thousands(approved)),
        _("Version %(n)s is kept and can be promoted again.", n=model.live_version),
    ]


def contrast_with_live(session: Session, model: Model, version: Version) -> list[str]:
    """What changes on the holdout, in numbers; why that cannot be told, where it cannot."""
    live = catalogue.find_version(session, model, model.live_version or 0)
    if live is None or live.number == version.number:
        return []
    contrast, problem = find_contrast(session, model, live, version)
    if contrast is None:
        return [_("How the two differ on the holdout cannot be told: %(why)s", why=problem)]
    return [
        say.flips_sentence(contrast.images, contrast.fixed, contrast.broken, live.number),
        _(
            "Right on the holdout: %(after)s, against %(before)s of version %(n)s.",
            after=contrast.after,
            before=contrast.before,
            n=live.number,
        ),
    ]


def say_hold(model: Model) -> str:
    if model.hold:
        return _("The model stays on hold: nothing else goes live by itself.")
    return _("The model is not on hold: the next candidate that passes the gate goes live by itself.")
