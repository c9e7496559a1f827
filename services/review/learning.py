"""How a full run learned: what it was made with, and its curves, while it goes on and afterwards."""

from dataclasses import dataclass
from typing import Any

from backtalk.recipes import DEFAULT
from backtalk.states import ACTIVE_RUN_STATES, RunKind
from backtalk.tables import Run, Version
from services.review import learning_words as say
from services.review.curves import Curves, find_best, leave_room, list_measured, make_curves
from services.review.learning_words import Told


@dataclass(frozen=True)
class Learning:
    recipe: str
    description: str
    facts: list[tuple[str, str]]
    curves: Curves | None
    instead: str  # why there are none


def describe_learning(run: Run, version: Version | None) -> Learning | None:
    """None for head runs, which move no backbone.

    Args:
        version: the one that the run made, once it is there.
    """
    if run.kind != RunKind.FULL:
        return None
    said: dict[str, Any] = run.recipe or {"name": DEFAULT}
    recipe, told = said.get("content", {}), _hear(run, version)
    until = leave_room(told.epochs, recipe.get("epochs", 0)) if told.goes_on else 0
    curves = make_curves(told.history, told.best_epoch, until)
    return Learning(
        recipe=str(said["name"]),
        description=say.description(recipe),
        facts=say.list_facts(run, recipe, told),
        curves=curves,
        instead="" if curves else say.instead_of_curves(recipe, told, list_measured(told.history)),
    )


def _hear(run: Run, version: Version | None) -> Told:
    """What the version's metrics say; without one, what the trainer told until it ended."""
    facts = version.metrics.get("tuning") if version else None
    goes_on = run.state in ACTIVE_RUN_STATES
    if facts:
        history, best = facts.get("history", []), facts.get("best_epoch")
        return Told(facts, history, facts.get("epochs", 0), facts.get("steps"), None, best, goes_on, True)
    progress = run.progress
    history = progress.get("history", [])
    return Told(
        facts=progress.get("tuning", {}),
        history=history,
        epochs=history[-1]["epoch"] if history else 0,
        steps=progress.get("step"),
        all_steps=progress.get("steps"),
        best_epoch=find_best(history),
        goes_on=goes_on,
        is_whole=False,
        is_kept="history" in progress or "step" not in progress,
    )
