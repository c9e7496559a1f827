"""Where a training stands, and how fast it goes. No TensorFlow."""

from dataclasses import dataclass, field
from typing import Any

MOST_TOLD = 100  # epochs in one message of progress, so that it stays small


@dataclass
class Standing:
    """Where a training stands; all of it goes into the checkpoint."""

    epoch: int = 0
    step: int = 0  # of all steps
    first_loss: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    bad_epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def tell_epochs(self) -> dict[str, Any]:
        """The newest epochs, and how many validation images the last one read right."""
        new = self.history[-MOST_TOLD:]
        return {"history": new} | ({"accuracy": new[-1]["accuracy"]} if new and "accuracy" in new[-1] else {})


@dataclass
class Pace:
    """What this attempt's steps took: it is not in the checkpoint."""

    waited_s: float = 0.0  # for images
    worked_s: float = 0.0
    steps: int = 0

    def note_step(self, waited_s: float, worked_s: float) -> None:
        self.waited_s, self.worked_s, self.steps = (
            self.waited_s + waited_s,
            self.worked_s + worked_s,
            self.steps + 1,
        )

    def foresee_s(self, steps: int) -> float:
        """Seconds that so many more steps will take."""
        return round((self.waited_s + self.worked_s) / self.steps * steps, 1)

    @property
    def input_wait(self) -> float:
        """Share of the time that steps waited for images."""
        spent = self.waited_s + self.worked_s
        return round(self.waited_s / spent, 4) if spent else 0.0
