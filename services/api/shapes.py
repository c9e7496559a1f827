"""Shapes that several resources share: problem details, pages of lists, ids in paths."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from backtalk.catalogue import DEFAULT_LIMIT, MAX_LIMIT

Item = TypeVar("Item")

#: Text that Postgres can keep: anything but NUL.
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Note = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class Body(BaseModel):
    """What a caller sends. A misspelt member is refused rather than passed over."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """What a caller gets."""

    model_config = ConfigDict(from_attributes=True)


class Problem(Answer):
    """Problem details (RFC 9457). `type` tells conditions apart; `detail` says what to do."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:backtalk:problem:unknown-label"])
    title: str = Field(examples=["Unknown label"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["animals has no label 'brid'. Use one of its labels."])
    instance: str = Field(description="The path that was called.")
    request_id: str = Field(description="The same as in the header X-Request-Id.")


class ListOf(Answer, Generic[Item]):
    """One stretch of a list, newest first."""

    items: list[Item]
    next: str | None = Field(description="Send it as `cursor` to get what follows; null at the end.")


class PageQuery(BaseModel):
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=400, description="The `next` of the page before.")


class ModelPath(BaseModel):
    model: str = Field(description="The model's name.", examples=["solar-cells"])


class VersionPath(ModelPath):
    number: int = Field(ge=1, le=2**53 - 1, description="The version's number.")


class IdempotencyHeader(BaseModel):
    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Repeat a call with the same key and body, and it is done once and answered alike.",
    )


_TITLES = {
    400: "Not understood, such as invalid JSON",
    401: "No key, or one that is not valid",
    403: "The key lacks the scope",
    404: "Not there",
    408: "The body did not come in time",
    409: "At odds with the present state",
    412: "Changed since it was read",
    413: "Too large",
    414: "An address of over 4 KiB",
    415: "Of a type that is not taken",
    422: "Understood, but it cannot be done with these values",
    428: "If-Match is missing",
    429: "Over the limit; see Retry-After",
    431: "Over 64 header fields, or one of over 8 KiB",
    503: "Not just now; see Retry-After",
}


def name_operation(*, name: str, **_: str) -> str:
    """An operation is called as its view is: what generated clients will call their methods."""
    return name


def problem_response(status: int) -> dict[str, Any]:
    """One response of an operation that is problem details."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": _TITLES[status], "content": content}


def problems(*statuses: int) -> dict[str | int, Any]:
    """The problems of an operation that asks for a key: those of every one, and `statuses`."""
    return {status: problem_response(status) for status in sorted({401, 403, 422, 503, *statuses})}
