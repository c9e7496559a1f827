"""The policy of one model: flat, the same names in the API, on the command line and in YAML. Pure."""

import re
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from backtalk.errors import InvalidPolicy
from backtalk.states import ReviewPolicy, RunKind

_CLOCK = re.compile(r"^([01][0-9]|2[0-3]):[0-5][0-9]$")
_MANY = 1_000_000


class Policy(BaseModel):
    """When to train, whom to believe and how strictly to judge. Defaults are the design's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # When to train
    min_approved: int = Field(
        50, ge=1, le=_MANY, description="Decided statements with a right label that start a run."
    )
    min_per_class: int = Field(0, ge=0, le=_MANY, description="And so many of each label among them.")
    nightly: str | None = Field(
        "02:00",
        description="Local time HH:MM of the nightly run, or null.",
        json_schema_extra={"pattern": _CLOCK.pattern},
    )
    nightly_kind: RunKind = Field(RunKind.HEAD, description="Kind of the nightly run.")
    nightly_recipe: str = Field(
        "default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Recipe of nightly full runs."
    )
    nightly_min_new: int = Field(
        1, ge=0, le=_MANY, description="Decided statements without which a night is skipped."
    )
    timezone: str = Field("UTC", description="IANA name; decides what is night and what is today.")
    hold: bool = Field(
        False, description="While true no trigger starts a run and nothing goes live by itself."
    )
    debounce_s: float = Field(2.0, ge=0, le=86400, description="Quiet seconds after a decision before a run.")
    cooldown_s: float = Field(60.0, ge=0, le=604800, description="Seconds between a run's end and the next.")
    max_runs_per_day: int = Field(48, ge=1, le=_MANY, description="Runs by trigger in one local day.")

    # Whom to believe
    review: ReviewPolicy = Field(ReviewPolicy.REQUIRED, description="required, trusted or auto.")
    quorum: Literal[1, 2] = Field(1, description="Reviewers who must agree.")
    four_eyes: bool = Field(False, description="Nobody approves what they reported themselves.")
    audit_share: float = Field(0.02, ge=0, le=1, description="Share of predictions drawn for review.")
    gold_share: float = Field(
        0.0, ge=0, le=0.5, description="Items with a known answer, mixed into what reviewers get."
    )

    # How strictly to judge
    margin: float = Field(0.02, gt=0, lt=1, description="Accuracy that a candidate may lose at most.")
    confidence: float = Field(0.90, gt=0.5, lt=1, description="One-sided confidence of every bound.")
    max_rebreak_rate: float = Field(0.2, ge=0, le=1, description="Share of fixed mistakes that may break.")
    max_flip_rate: float = Field(0.05, ge=0, le=1, description="Share of confirmed answers that may break.")
    max_recall_loss: float = Field(0.10, ge=0, le=1, description="Recall that any class may lose.")
    max_brier_loss: float = Field(0.01, ge=0, le=2, description="Brier score that may be lost.")
    max_size_ratio: float = Field(
        2.0,
        gt=0,
        description="Bytes of another backbone, as a share of the champion's; recipes may say less.",
    )
    max_latency_ratio: float = Field(
        2.0, gt=0, description="Time of one image by another backbone, as a share of the champion's."
    )
    serve_int8: bool = Field(
        True, description="Whether an 8-bit version that passed goes live; else a person may promote it."
    )
    min_veto_images: int = Field(20, ge=1, le=_MANY, description="Images below which a veto says `too few`.")

    # What to keep
    keep_images: Literal["all", "feedback", "none"] = Field(
        "all", description="Whose pixels are kept: all, those that somebody spoke of, or none."
    )
    retention_days: int = Field(
        90,
        ge=1,
        le=36_500,
        description="Days after which the pictures of predictions without feedback are deleted.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """No number from `false` or "50", no yes from 1: who says such a thing meant something else."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if kind is bool and not isinstance(value, bool):
            raise ValueError("use true or false")
        if kind in (int, float, Literal[1, 2]) and isinstance(value, bool | str):
            raise ValueError("use a number")
        return value

    @field_validator("nightly")
    @classmethod
    def _clock_time(cls, value: str | None) -> str | None:
        if value is not None and not _CLOCK.fullmatch(value):
            raise ValueError("use HH:MM, such as 02:00, or null")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("unknown time zone; use an IANA name such as Europe/Berlin") from None
        return value

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check `values`, defaults filled in.

        Raises:
            InvalidPolicy: a key is unknown or a value is bad; the message names each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidPolicy(f"The policy was not changed. {said}") from None

    def differences(self) -> dict[str, Any]:
        """Only what differs from the defaults, as JSON values; `hold` has a column of its own."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"hold"})
