"""The policy of a model as a form, made from `backtalk.policy.Policy` itself.

The form carries the policy that it was made from. Where that is not the policy any more, nothing is changed:
the form comes again, with what others changed and with what was typed. (A number would not do: a rollback
sets `hold` without counting up the policy's version, and an old form must not lift it.)
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from flask import Response, g, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic.fields import FieldInfo
from sqlalchemy.orm import Session

from backtalk import catalogue, triggers
from backtalk.considerations import lock_row
from backtalk.errors import EtagMissing, InvalidPolicy
from backtalk.policy import Policy
from backtalk.states import Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review.actions import ask
from services.review.language import translate as _
from services.review.sessions import needs
from services.review.site import blueprint

#: The first name of each group of fields, in the order of `Policy`.
GROUPS = {
    "min_approved": "When to train",
    "review": "Whom to believe",
    "margin": "How strictly to judge",
    "keep_images": "What to keep",
}
NONE = "null"


@dataclass(frozen=True)
class Field:
    name: str
    value: str
    default: str
    changed: bool
    choices: tuple[str, ...]
    number: bool
    description: str


@blueprint.get("/models/<model_name>/policy")
def show_policy(model_name: str) -> ResponseReturnValue:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, model_name)
        values = _as_text(triggers.get_policy(model))
    return _render(model, values, values)


@blueprint.post("/models/<model_name>/policy")
@needs(Scope.ADMIN)
def change_policy(model_name: str) -> ResponseReturnValue:
    """Only what was typed is changed, once the page has said what that will do and a person is sure.

    A bad value comes back with the reason, and a form that was made from another policy with the news.
    """
    given = {name: text.strip() for name, text in request.form.items() if name in Policy.model_fields}
    before = _find_before()
    typed = {name: text for name, text in given.items() if text != before.get(name)}
    with get_backend().system.db.transaction() as session:
        model = lock_row(session, catalogue.get_model(session, model_name).id)
        policy = triggers.get_policy(model)
        now = _as_text(policy)
        changes = {name: text for name, text in typed.items() if text != now[name]}
        if changes and any(now[name] != before.get(name, now[name]) for name in now):
            return _render(model, now | typed, now, 412, before=before)
        try:
            wanted = Policy.parse(policy.model_dump(mode="json") | _read_all(changes))
            if changes and "sure" not in request.form:
                return _ask(session, model, policy, wanted, changes)
            triggers.set_policy(session, model, _read_all(changes), g.caller)
        except InvalidPolicy as error:  # raised before anything is written
            return _render(model, now | typed, now, 422, problem=error.message)
    return redirect(url_for("pages.show_policy", model_name=model_name, done="policy"), code=303)


def _find_before() -> dict[str, str]:
    """The policy that the form was made from. Raises EtagMissing: it does not say."""
    try:
        before = json.loads(request.form.get("before", ""))
        return {str(name): str(text) for name, text in before.items()}
    except (ValueError, AttributeError):
        raise EtagMissing(_("This form does not say which policy it was made from. Open it again.")) from None


def _render(
    model: Model,
    values: dict[str, str],
    now: dict[str, str],
    status: int = 200,
    *,
    before: dict[str, str] | None = None,
    problem: str | None = None,
) -> Response:
    """The form with `values` in it; it is changed only if the policy is still what it is `now`.

    With `before` it also says what others have changed since.
    """
    known = before or {}
    news = [(name, known[name], now[name]) for name in now if known.get(name, now[name]) != now[name]]
    page = render_template(
        "pages/policy.html",
        model=model,
        groups=make_groups(values),
        before=json.dumps(now),
        news=news,
        problem=problem,
    )
    return make_response(page, status)


def _ask(session: Session, model: Model, now: Policy, wanted: Policy, changes: dict[str, str]) -> str:
    old, new = _as_text(now), _as_text(wanted)
    will = [
        _("%(name)s becomes %(new)s; it was %(old)s.", name=name, new=new[name], old=old[name])
        for name in changes
    ]
    if wanted.keep_images != now.keep_images or wanted.retention_days < now.retention_days:
        will.append(_("Pictures that the new rule does not keep are deleted within the day, for good."))
    approved = catalogue.count_decided_new(session, model)
    if wanted.hold:
        will.append(_("The model is on hold then: no run starts and nothing goes live by itself."))
    elif approved >= wanted.min_approved and (approved < now.min_approved or now.hold):
        will.append(_("%(n)s statements are approved, so a run is due at once.", n=approved))
    else:
        will.append(
            _(
                "%(n)s of %(wanted)s statements are approved towards the next run.",
                n=approved,
                wanted=wanted.min_approved,
            )
        )
    return ask(
        model,
        _("Change the policy?"),
        will,
        action=url_for("pages.change_policy", model_name=model.name),
        fields=changes | {"sure": "yes", "before": json.dumps(old)},
        button=_("Save the policy"),
        icon_name="approve",
        style="main",
    )


def _read_all(texts: dict[str, str]) -> dict[str, Any]:
    return {name: _read(text) for name, text in texts.items()}


def make_groups(values: dict[str, str]) -> list[tuple[str, list[Field]]]:
    defaults = _as_text(Policy())
    groups: list[tuple[str, list[Field]]] = []
    for name, info in Policy.model_fields.items():
        if name in GROUPS:
            groups.append((GROUPS[name], []))
        groups[-1][1].append(_make_field(name, info, values[name], defaults[name]))
    return groups


def _make_field(name: str, info: FieldInfo, value: str, default: str) -> Field:
    kind = info.annotation
    return Field(
        name=name,
        value=value,
        default=default,
        changed=value != default,
        choices=_find_choices(kind),
        number=kind in (int, float),
        description=info.description or "",
    )


def _find_choices(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("false", "true")
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(member.value) for member in kind)
    return ()


def _as_text(policy: Policy) -> dict[str, str]:
    """Each value as it stands in the form, and on the command line."""
    return {name: _write(value) for name, value in policy.model_dump(mode="json").items()}


def _write(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _read(text: str) -> Any:
    """As the command line reads it: `null`, true, false, numbers; everything else is a word."""
    if text in {NONE, "true", "false"}:
        return {NONE: None, "true": True, "false": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
