"""How well the validation images were read after each epoch, as two curves. Geometry for SVG, no drawing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services.review import evidence_words as say
from services.review import words
from services.review.language import translate as _
from services.review.rates import Note

LEFT, TOP, WIDTH, HEIGHT = 54.0, 26.0, 396.0, 140.0  # pixels of the plot in its frame
INSET = 12.0  # of the first and the last epoch
FEWEST_EPOCHS = 2  # that make a curve
MOST_DOTS = 60  # epochs; with more, the line alone
MOST_LEVELS, MOST_EPOCH_NOTES = 6, 13
ROOM = 20  # epochs that a curve which grows has room for from the beginning
LEAST_LOSS, LEAST_SHARE = 0.001, 0.01  # between two levels: less is noise, and noise is not to look like news
BEST_REACH = 84.0  # pixels that the text over the best epoch takes to each side


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Best:
    """The epoch with the lowest log loss."""

    x: float
    y: float
    text_at: float
    text: str


@dataclass(frozen=True)
class Curve:
    line: str  # the points of an SVG polyline
    dots: list[Dot]
    levels: list[Note]
    best: Best | None


@dataclass(frozen=True)
class EpochLine:
    """One epoch, for the table."""

    epoch: int
    log_loss: str
    right: str
    is_best: bool


@dataclass(frozen=True)
class Curves:
    log_loss: Curve
    right: Curve
    epochs: list[Note]
    lines: list[EpochLine]


def make_curves(history: Sequence[dict[str, Any]], best_epoch: int | None, until: int = 0) -> Curves | None:
    """None with fewer than two epochs that have figures.

    Args:
        until: the epoch that the curve may grow to.
    """
    told = list_measured(history)
    if len(told) < FEWEST_EPOCHS:
        return None
    first = told[0]["epoch"]
    last = max(told[-1]["epoch"], until)
    step = (WIDTH - 2 * INSET) / (last - first)
    xs = [round(LEFT + INSET + step * (one["epoch"] - first), 1) for one in told]
    numbers = [one["epoch"] for one in told]
    best = numbers.index(best_epoch) if best_epoch in numbers else None
    losses, shares = [one["log_loss"] for one in told], [one["accuracy"] for one in told]
    return Curves(
        log_loss=_draw(numbers, xs, losses, best, say.log_loss, _choose_levels(losses, LEAST_LOSS)),
        right=_draw(numbers, xs, shares, best, words.share, _choose_levels(shares, LEAST_SHARE, 1.0)),
        epochs=[
            Note(round(LEFT + INSET + step * (number - first), 1), words.thousands(number))
            for number in _choose_epochs(first, last)
        ],
        lines=_list_lines(told, best_epoch),
    )


def list_measured(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Epochs with figures: none has any where there are too few validation images."""
    return [one for one in history if "log_loss" in one and "accuracy" in one]


def find_best(history: Sequence[dict[str, Any]]) -> int | None:
    """The epoch with the lowest log loss so far; None where the first epochs are not told any more."""
    told = list_measured(history)
    if not told or told[0]["epoch"] != 1:
        return None
    return int(min(told, key=lambda one: one["log_loss"])["epoch"])


def leave_room(done: int, asked: int) -> int:
    """The epoch up to which a curve that grows is drawn: seldom moved, and never far off."""
    return min(asked, max(ROOM, 2 * done))


# --- one curve ---------------------------------------------------------------------------------
Levels = list[float]


def _draw(
    numbers: Sequence[int],
    xs: Sequence[float],
    values: Sequence[float],
    best: int | None,
    write: Callable[[float], str],
    levels: Levels,
) -> Curve:
    low, high = levels[0], levels[-1]

    def place(value: float) -> float:
        return round(TOP + HEIGHT * (high - value) / (high - low), 1)

    ys = [place(value) for value in values]
    dots = [
        Dot(x, y, _("Epoch %(n)s: %(figure)s", n=words.thousands(number), figure=write(value)))
        for number, x, y, value in zip(numbers, xs, ys, values, strict=True)
    ]
    marked = None
    if best is not None:
        text_at = min(max(xs[best], LEFT + BEST_REACH), LEFT + WIDTH - BEST_REACH)
        figures = {"n": words.thousands(numbers[best]), "figure": write(values[best])}
        marked = Best(xs[best], ys[best], text_at, _("Best: epoch %(n)s, %(figure)s", **figures))
    return Curve(
        line=" ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True)),
        dots=dots if len(dots) <= MOST_DOTS else [],
        levels=[Note(place(level), _write_level(level, levels, write)) for level in levels],
        best=marked,
    )


def _write_level(level: float, levels: Levels, write: Callable[[float], str]) -> str:
    """As few digits as tell levels apart; shares are never that close."""
    if write is words.share:
        return say.percent(level)
    return f"{level:.{max(0, -math.floor(math.log10(levels[1] - levels[0]) + 1e-9))}f}"


def _choose_levels(values: Sequence[float], least: float, most: float = math.inf) -> Levels:
    """Round numbers around all values: at most six, and two at least."""
    low, high = min(values), max(values)
    step = least
    while True:
        below, above = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if above - below < MOST_LEVELS:
            break
        step = _next_step(step)
    if above == below:
        above, below = (above, below - 1) if high >= most else (above + 1, below)
    return [round(step * i, 10) for i in range(below, above + 1)]


def _next_step(step: float) -> float:
    """Of 1, 2, 5, 10, 20, … and 0.1, 0.2, 0.5, …"""
    power: float = 10.0 ** math.floor(math.log10(step) + 1e-9)
    return power * next(factor for factor in (2, 5, 10) if power * factor > step * (1 + 1e-9))


def _choose_epochs(first: int, last: int) -> list[int]:
    """Those that are named below the curves."""
    step = 1.0
    while (last - first) / step >= MOST_EPOCH_NOTES:
        step = _next_step(step)
    return [number for number in range(first, last + 1) if number % round(step) == 0]


def _list_lines(told: Sequence[dict[str, Any]], best_epoch: int | None) -> list[EpochLine]:
    """Newest first."""
    return [
        EpochLine(
            epoch=one["epoch"],
            log_loss=say.log_loss(one["log_loss"]),
            right=words.share(one["accuracy"]),
            is_best=one["epoch"] == best_epoch,
        )
        for one in reversed(told)
    ]
