"""What has happened, in the past tense. An event is committed with the rows it speaks of.

Each carries ids alone: whoever reacts re-reads the rows (the message is only a doorbell).
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to one model."""

    model_id: int

    @property
    def name(self) -> str:
        return type(self).__name__

    def payload(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CorrectionReceived(Event):
    prediction_id: str


@dataclass(frozen=True, kw_only=True)
class ConfirmationReceived(Event):
    prediction_id: str


@dataclass(frozen=True, kw_only=True)
class AuditDrawn(Event):
    prediction_id: str


@dataclass(frozen=True, kw_only=True)
class StatementApproved(Event):
    prediction_id: str


@dataclass(frozen=True, kw_only=True)
class DecisionUndone(Event):
    """A reviewer took a final decision back: it is counted no longer, and its item is open again."""

    prediction_id: str


@dataclass(frozen=True, kw_only=True)
class StatementsWithdrawn(Event):
    """Samples were taken back: the live version may have learned from them."""


@dataclass(frozen=True, kw_only=True)
class NightlyCame(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class ConsiderationDue(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class HoldLifted(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class RunRequested(Event):
    run_id: str
    kind: str  # decides the queue: head runs never wait behind full ones


@dataclass(frozen=True, kw_only=True)
class CandidateTrained(Event):
    run_id: str


@dataclass(frozen=True, kw_only=True)
class ChampionChanged(Event):
    """A promotion lost its compare-and-set: its run must be judged against the new champion."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class CandidatePassed(Event):
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    run_id: str


@dataclass(frozen=True, kw_only=True)
class PromotionAsked(Event):
    """A person wants a version live, where the process that heard it may not publish it."""

    version: int


@dataclass(frozen=True, kw_only=True)
class DeviceFileAsked(Event):
    """Somebody wants a version as one file, and there is none yet."""

    device_file_id: int


@dataclass(frozen=True, kw_only=True)
class VersionPromoted(Event):
    version: int


@dataclass(frozen=True, kw_only=True)
class VersionRolledBack(Event):
    version: int
