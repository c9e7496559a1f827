"""Full runs to look at: what their trainers tell, by epoch, and what is left of them."""

from typing import Any

from sqlalchemy.orm import Session

from backtalk.recipes import load_recipe
from backtalk.states import RunKind, RunState
from backtalk.tables import Model, Run
from tests import factories

BEGUN = {"left_out": 2, "device": "CPU", "threads": 8, "memory_mb": 612}
VALIDATED = 79  # images
STEPS = 11  # of an epoch
#: Log loss and how many of them are read right: fast at first, and a little overfitted at the end.
VALIDATION = (
    (0.6124, 54),
    (0.5211, 59),
    (0.4467, 63),
    (0.4102, 66),
    (0.3719, 67),
    (0.3583, 68),
    (0.3304, 70),
    (0.3187, 71),
    (0.3102, 72),
    (0.3155, 71),
    (0.3139, 72),
    (0.3168, 72),
)


def read_recipe(name: str = "surfaces", **values: Any) -> dict[str, Any]:
    """As a run keeps it once it has begun."""
    content = load_recipe(name, None).model_dump(mode="json") | {"threads": 8} | values
    return {"name": name, "content": content}


def make_history(epochs: int, *, measured: bool = True) -> list[dict[str, Any]]:
    """`measured`: there are enough validation images."""
    return [
        {"epoch": i + 1} | ({"log_loss": loss, "accuracy": right / VALIDATED} if measured else {})
        for i, (loss, right) in enumerate(VALIDATION[:epochs])
    ]


def make_metrics(epochs: int = 12, *, best_epoch: int | None = 9) -> dict[str, Any]:
    """What `version.metrics["tuning"]` says once a run has trained."""
    recipe = read_recipe(epochs=12)["content"]
    amounts = {"epochs": epochs, "steps": STEPS * epochs, "images": 340, "validation": VALIDATED}
    costs = {"input_wait": 0.0131, "seconds": 641.4, "memory_mb": 2684}
    told = {"best_epoch": best_epoch, "history": make_history(epochs), "recipe": recipe}
    return BEGUN | amounts | costs | told


def make_progress(epochs: int = 4, *, measured: bool = True) -> dict[str, Any]:
    """What a run tells in the middle of its next epoch."""
    history = make_history(epochs, measured=measured)
    right = {"accuracy": history[-1]["accuracy"]} if history and measured else {}
    step = STEPS * epochs + 4
    return right | {
        "part": "tune",
        "fraction": round(step / (12 * STEPS), 2),
        "tuning": BEGUN,
        "epoch": epochs + 1,
        "epochs": 12,
        "step": step,
        "steps": 12 * STEPS,
        "loss": 0.3127,
        "time_left_s": 410.0,
        "history": history,
    }


def add_full_run(session: Session, model: Model, state: RunState, **values: Any) -> Run:
    """One that has begun and made no version."""
    return factories.make_run(  # type: ignore[no-any-return]
        session,
        model,
        **{
            "kind": RunKind.FULL,
            "state": state,
            "recipe": read_recipe(epochs=12),
            "tuned_from": 1,
            "attempt": 1,
        }
        | values,
    )


def add_failures(session: Session, model: Model) -> None:
    """Full runs that made nothing: broken off in the middle, without figures, after one epoch, before any."""
    failed = RunState.FAILED
    reason = "The disk is full. Make room, then ask for the run again."
    add_full_run(session, model, failed, progress=make_progress(5), reason=reason)
    add_full_run(session, model, failed, progress=make_progress(2, measured=False), reason=reason)
    add_full_run(session, model, failed, progress=make_progress(1), reason=reason)
    add_full_run(session, model, failed, progress={"part": "decode", "fraction": 0.3}, reason=reason)
    cancelled = RunState.CANCELLED
    add_full_run(session, model, cancelled, progress=make_progress(0), recipe=read_recipe("phone"))
    add_full_run(session, model, cancelled, progress={"part": "quantise"}, recipe=read_recipe("int8"))
