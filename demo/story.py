"""What happened in one demo, as plain values: the report prints them, the chart draws them."""

from dataclasses import dataclass

from demo.client import Json
from demo.measurer import Measurement


@dataclass(frozen=True)
class Milestone:
    """A version that went live, measured on the untouched cells."""

    version: int
    feedback: int  # decided labels that the service had when it was made
    measured: Measurement
    fixed: int  # against the version before
    broken: int


@dataclass(frozen=True)
class EndedRun:
    """One run of the service, as it says itself."""

    number: int
    feedback: int  # decided labels when it ended
    row: Json

    @property
    def promoted(self) -> bool:
        return bool(self.row["state"] == "promoted")
