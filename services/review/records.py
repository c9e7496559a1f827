"""The two chains that nobody can change unseen: the ledger of a model, and the audit log for admins."""

from dataclasses import dataclass

from flask import render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from backtalk import audit, catalogue, ledger
from backtalk.errors import InvalidInput
from backtalk.states import Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review.language import translate as _
from services.review.sessions import needs
from services.review.site import blueprint

#: A chain of so many entries is walked at each look; a longer one when somebody asks for it.
WALKED_AT_ONCE = 500
ACTIONS = ("create", "promote", "rollback")
A_PAGE = 50


@dataclass(frozen=True)
class Chain:
    """`breaks` is None where nobody has walked it now; no breaks is a whole chain."""

    entries: int
    breaks: list[str] | None


@blueprint.get("/models/<model_name>/ledger")
def show_ledger(model_name: str) -> ResponseReturnValue:
    action = request.args.get("action") or None
    if action is not None and action not in ACTIONS:
        raise InvalidInput(f"`action` is one of {', '.join(ACTIONS)}.")
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        page = catalogue.list_ledger(session, model, cursor=request.args.get("cursor"), action=action)
        chain = walk_ledger(session, model)
    return render_template(
        "pages/ledger.html",
        model=model,
        page=page,
        entries=page.items,
        chain=chain,
        actions=ACTIONS,
        action=action,
    )


def walk_ledger(session: Session, model: Model) -> Chain:
    if model.generation > WALKED_AT_ONCE and "check" not in request.args:
        return Chain(model.generation, None)
    return Chain(model.generation, ledger.find_breaks(session, model.id, model.generation))


@blueprint.get("/audit")
@needs(Scope.ADMIN)
def show_audit() -> ResponseReturnValue:
    """`?model=`, `?actor=` and `?action=` narrow the list; `?before=` is where the next page begins."""
    given = {name: request.args.get(name, "").strip() or None for name in ("model", "actor", "action")}
    if any(text is not None and not text.isprintable() for text in given.values()):
        raise InvalidInput(_("That filter holds characters that no name has."))
    with get_backend().system.db.reading() as session:
        entries = audit.list_entries(session, before=read_before(), limit=A_PAGE + 1, **given)
        newest = audit.list_entries(session, limit=1)
        last = newest[0].seq if newest else 0
        walked = last <= WALKED_AT_ONCE or "check" in request.args
        proof = audit.prove(session) if walked else None
    shown = entries[:A_PAGE]
    return render_template(
        "pages/audit.html",
        entries=shown,
        before=shown[-1].seq if len(entries) > A_PAGE else None,
        chain=Chain(last, proof.breaks if proof else None),
        head=f"{last}:{newest[0].hash}" if newest else None,
        given={name: text for name, text in given.items() if text},
    )


def read_before() -> int | None:
    text = request.args.get("before") or None
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput("`before` is the number of an entry.")
    return int(text)
