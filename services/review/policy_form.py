"""The policy of a model as a form, made from `backtalk.policy.Policy` itself."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from flask import g, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic.fields import FieldInfo
from sqlalchemy.orm import Session

from backtalk import catalogue, triggers
from backtalk.considerations import lock_row
from backtalk.errors import InvalidPolicy
from backtalk.policy import Policy
from backtalk.states import Scope
from backtalk.tables import Model
from services.backend import get_backend
from services.review.actions import ask
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
    return render_template("pages/policy.html", model=model, groups=make_groups(values))


@blueprint.post("/models/<model_name>/policy")
@needs(Scope.ADMIN)
def change_policy(model_name: str) -> ResponseReturnValue:
    """What differs from the policy as it is now is shown first, and changed when the form says so.

    A bad value comes back with the reason. A form that was made about an older policy is asked about anew.
    """
    given = {name: text.strip() for name, text in request.form.items() if name in Policy.model_fields}
    with get_backend().system.db.transaction() as session:
        model = lock_row(session, catalogue.get_model(session, model_name).id)
        policy = triggers.get_policy(model)
        before = _as_text(policy)
        changes = {name: text for name, text in given.items() if text != before[name]}
        sure = request.form.get("sure") == str(model.policy_version)
        try:
            wanted = Policy.parse(policy.model_dump(mode="json") | _read_all(changes))
            if changes and not sure:
                return _ask(session, model, policy, wanted, changes)
            triggers.set_policy(session, model, _read_all(changes), g.caller)
        except InvalidPolicy as error:
            groups = make_groups(before | given)
            page = render_template("pages/policy.html", model=model, groups=groups, problem=error.message)
            return make_response(page, 422)
    return redirect(url_for("pages.show_policy", model_name=model_name, done="policy"), code=303)


def _ask(session: Session, model: Model, now: Policy, wanted: Policy, changes: dict[str, str]) -> str:
    old, new = _as_text(now), _as_text(wanted)
    will = [f"{name} becomes {new[name]}; it was {old[name]}." for name in changes]
    if wanted.keep_images != now.keep_images or wanted.retention_days < now.retention_days:
        will.append("Pictures that the new rule does not keep are deleted within the day, for good.")
    approved = catalogue.count_decided_new(session, model)
    if wanted.hold:
        will.append("The model is on hold then: no run starts and nothing goes live by itself.")
    elif approved >= wanted.min_approved and (approved < now.min_approved or now.hold):
        will.append(f"{approved} statements are approved, so a run is due at once.")
    else:
        will.append(f"{approved} of {wanted.min_approved} statements are approved towards the next run.")
    return ask(
        model,
        "Change the policy?",
        will,
        action=url_for("pages.change_policy", model_name=model.name),
        fields=changes | {"sure": str(model.policy_version)},
        button="Save the policy",
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
