"""What the page of a full run says of how it learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backtalk.tables import Run
from services.review import evidence_words as say
from services.review.language import mark
from services.review.language import translate as _
from services.review.words import duration, join, share, thousands

#: What the recipes that come with Backtalk say of themselves. An installation's own are shown as written.
DESCRIPTIONS = (
    mark("Head first, then all layers, ten epochs from the pretrained weights."),
    mark("Three epochs of the thirty upper layers, from where the champion is."),
    mark("As default, with flips both ways, and no turns, shifts or zooms."),
    mark("The champion's backbone in 8-bit integers, with a head fitted to it."),
    mark("MobileNetV3 Small, taught by the champion."),
    mark(
        "EfficientNet-Lite0 on images of 160 pixels, taught by the champion; "
        "for pictures that may be mirrored."
    ),
)
_METHODS = {
    "tune": mark("fine-tuning"),
    "distil": mark("distillation"),
    "quantise": mark("8-bit integers"),
}
Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Told:
    """What is known of a training, from its version's metrics or from what the run told last."""

    facts: dict[str, Any]
    history: list[dict[str, Any]]
    epochs: int  # that are over
    steps: int | None
    all_steps: int | None  # None once it is over
    best_epoch: int | None
    goes_on: bool
    is_whole: bool  # the facts are those of the end, not of the beginning
    is_kept: bool = True  # the history: runs of older versions told none


def description(recipe: dict[str, Any]) -> str:
    return _(str(recipe.get("description", "")))


def list_facts(run: Run, recipe: dict[str, Any], told: Told) -> Facts:
    """What is not known, or does not apply, is left out."""
    if not recipe:  # the run waits
        return []
    method = recipe["method"]
    facts = [(_("Method"), _(_METHODS[method]))]
    if method == "quantise":
        return facts + _list_amounts(told) + _list_costs(run, told)
    facts += _list_student(run, recipe) if recipe.get("distil") else [(_("Begins with"), _start(run, recipe))]
    facts += [
        (_("Layers"), _layers(recipe["unfreeze"])),
        (_("Learning rate"), f"{recipe['learning_rate']:g}"),
        (_("Epochs"), _("%(n)s of %(all)s", n=told.epochs, all=recipe["epochs"])),
    ]
    if told.best_epoch is not None:
        facts.append((_("Best epoch"), str(told.best_epoch)))
    return facts + _list_amounts(told) + _list_costs(run, told)


def _list_student(run: Run, recipe: dict[str, Any]) -> Facts:
    wanted = recipe["distil"]
    student = str(wanted["student"])
    if wanted.get("input_size"):
        student = _("%(name)s, %(n)s pixels a side", name=student, n=wanted["input_size"])
    teachers = join(_teacher(str(name), run.tuned_from) for name in wanted["teachers"])
    return [(_("Student"), student), (_("Teachers"), teachers)]


def _teacher(name: str, champion: int | None) -> str:
    owner, _slash, number = name.rpartition("/")
    if owner:
        return _("version %(n)s of %(model)s", n=number, model=owner)
    if name == "champion" and champion is None:
        return _("the champion")
    return _("version %(n)s", n=champion if name == "champion" else number)


def _start(run: Run, recipe: dict[str, Any]) -> str:
    """Version 1's backbone has the pretrained weights."""
    if recipe["start"] == "pretrained":
        return _("pretrained weights")
    return _("version %(n)s's weights", n=run.tuned_from or "–")


def _layers(unfreeze: str | int) -> str:
    return _("all of them") if unfreeze == "all" else _("the upper %(n)s", n=unfreeze)


def _list_amounts(told: Told) -> Facts:
    """How much it has seen."""
    facts = told.facts
    known = [
        (_("Images learned from"), facts.get("images")),
        (_("Validation images"), facts.get("validation")),
        (_("Images left out"), facts.get("left_out")),
    ]
    amounts = [(name, thousands(number)) for name, number in known if number is not None]
    if told.steps is None or told.goes_on:  # while it goes on, the head of the page says it
        return amounts
    steps = thousands(told.steps)
    if told.all_steps is not None:
        steps = _("%(n)s of %(all)s", n=steps, all=thousands(told.all_steps))
    return [(_("Steps"), steps), *amounts]


def _list_costs(run: Run, told: Told) -> Facts:
    """What it ran on, and what it took; of a later attempt alone, where there was one."""
    facts = told.facts
    costs = []
    if "device" in facts:
        costs.append((_("Device"), _device(facts["device"])))
    if "threads" in facts:
        costs.append((_("Threads"), str(facts["threads"])))
    if "memory_mb" in facts:
        name = _("Most memory") if told.is_whole else _("Memory at the beginning")
        costs.append((name, f"{thousands(facts['memory_mb'])} MB"))
    if "input_wait" in facts:
        costs.append((_("Waited for images"), share(facts["input_wait"])))
    if "seconds" in facts:
        name = _("Time of its last attempt") if run.attempt > 1 else _("Training time")
        costs.append((name, duration(facts["seconds"])))
    return costs


def _device(name: str) -> str:
    """`/device:GPU:0` as TensorFlow has it."""
    return " ".join(name.split(":")[-2:]) if ":" in name else name


def instead_of_curves(recipe: dict[str, Any], told: Told, measured: Sequence[dict[str, Any]]) -> str:
    """Why there is nothing to draw."""
    if recipe.get("method") == "quantise":
        return _(
            "The backbone learns nothing here, so there are no curves: images show which ranges it needs."
        )
    if measured:
        figures = {"loss": say.log_loss(measured[0]["log_loss"]), "share": share(measured[0]["accuracy"])}
        return _(
            "One epoch is over: log loss %(loss)s, %(share)s right on validation. Curves need two.", **figures
        )
    if told.history:
        return _(
            "Fewer than 20 validation images could be read, so no epoch has figures: nothing stops early, "
            "and the last weights count."
        )
    if told.goes_on:
        return _("The curves begin once two epochs are over.")
    if not told.is_kept:
        return _("No figures of its epochs were kept.")
    return _("It ended before an epoch was over, so there are no curves.")
