"""Which versions this process holds and can ask, by number and by label, in TensorFlow Serving's words."""

from enum import StrEnum

from pydantic import Field
from werkzeug.exceptions import BadRequest

from backtalk.errors import ModelNotFound, ServableNotFound, UnknownVersionLabel
from backtalk.loading import ServedVersion
from backtalk.signatures import Signature, describe_signatures
from services.api.shapes import ModelPath
from services.backend import get_backend

HIGHEST_NUMBER = 2**63 - 1


class Label(StrEnum):
    """The versions that a process holds."""

    LIVE = "live"
    PREVIOUS = "previous"


class LabelPath(ModelPath):
    label: str = Field(description="`live`, or `previous`: the version before it.", examples=["live"])


class ServablePath(ModelPath):
    """Any number comes through: `check_number` refuses what is too high in TensorFlow Serving's words."""

    number: int = Field(
        ge=0,
        description="The version's number.",
        examples=[1],
        json_schema_extra={"maximum": HIGHEST_NUMBER},
    )


def find_latest(model: str) -> ServedVersion:
    """The version in service. Raises ServableNotFound: there is no such model."""
    return _find_held(model, f"Latest({model})")[0]


def find_numbered(model: str, number: int) -> ServedVersion:
    """Raises ServableNotFound: this process does not hold that version."""
    check_number(number)
    asked = f"Specific({model}, {number})"
    held = _find_held(model, asked)
    for served in held:
        if served.number == number:
            return served
    names = ", ".join(f"{served.number} ({label})" for served, label in zip(held, Label, strict=False))
    raise ServableNotFound(f"Servable not found for request: {asked}. In memory are {names}.")


def check_number(number: int) -> None:
    """Raises BadRequest: no version can have that number."""
    if number > HIGHEST_NUMBER:
        raise BadRequest(f"Failed to convert version: {number} to numeric.")


def find_labelled(model: str, label: str) -> ServedVersion:
    """Raises UnknownVersionLabel: no version has that label, or it is not held here."""
    held = dict(zip(Label, _find_held(model, f"Labeled({model}, {label})"), strict=False))
    if label not in held:
        known = " and ".join(held)
        raise UnknownVersionLabel(f"Unrecognized servable version label: {label[:100]}. There is {known}.")
    return held[Label(label)]


def _find_held(model: str, asked: str) -> list[ServedVersion]:
    try:
        return get_backend().live.versions.list_held(model)
    except ModelNotFound:
        raise ServableNotFound(f"Servable not found for request: {asked}") from None


def signatures_of(served: ServedVersion) -> dict[str, Signature]:
    return describe_signatures(
        size=served.backbone.input_size, width=served.backbone.width, classes=len(served.labels)
    )
