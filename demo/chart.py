"""Both accuracies over the labels given: as a picture, and in the terminal."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from demo.story import EndedRun, Milestone

COLOURS = {"mono": "#7a5195", "poly": "#ef6c00"}
MODULES = {"mono": "monocrystalline (what it was made from)", "poly": "polycrystalline (new in production)"}
SYMBOLS = {"mono": ("·", (170, 120, 200)), "poly": ("#", (239, 108, 0))}
_INK = "#2b2b33"


def draw_picture(milestones: Sequence[Milestone], runs: Sequence[EndedRun], sent: int, path: Path) -> Path:
    """Write the chart as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), dpi=140, layout="constrained")
    end = _last_label(milestones, runs)
    for module, name in MODULES.items():
        xs, ys = _steps(milestones, module, end)
        axes.step(xs, ys, where="post", color=COLOURS[module], linewidth=2.2, label=name)
        axes.plot(xs[:-1], ys[:-1], "o", color=COLOURS[module], markersize=6)
        other = milestones[-1].measured.accuracy("poly" if module == "mono" else "mono") * 100
        aside = 5 * (1 if ys[-1] >= other else -1) if abs(ys[-1] - other) < 5 else 0  # or they overlap
        axes.annotate(
            f"{ys[-1]:.0f} %",
            (end, ys[-1]),
            xytext=(6, aside),
            textcoords="offset points",
            va="center",
            color=COLOURS[module],
            weight="bold",
        )
    for stone in milestones:
        axes.annotate(f"v{stone.version}", (stone.feedback, 4), ha="center", fontsize=8, color=_INK)
        axes.axvline(stone.feedback, color="#d8d8de", linewidth=0.8, zorder=0)
    stopped = [run.feedback for run in runs if not run.promoted]
    if stopped:
        axes.plot(
            stopped,
            [1.5] * len(stopped),
            "x",
            color="#9a9aa5",
            markersize=6,
            clip_on=False,
            label="run that the gate did not let through",
        )
    _dress(axes, milestones, sent, end)
    figure.savefig(path)
    plt.close(figure)
    return path


def _dress(axes, milestones: Sequence[Milestone], sent: int, end: int) -> None:  # type: ignore[no-untyped-def]
    cells = len(milestones[0].measured.labels)
    axes.set_title(
        f"What {end} labels from {sent} answers did, on {cells} cells that were never labelled",
        loc="left",
        color=_INK,
        fontsize=11,
    )
    axes.set_xlabel("decided labels: corrections and audits", color=_INK)
    axes.set_ylabel("right answers over HTTP, %", color=_INK)
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.02 * end - 1, end * 1.07 + 1)
    axes.grid(axis="y", color="#ececf0")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08), frameon=False)


def draw_in_terminal(milestones: Sequence[Milestone], runs: Sequence[EndedRun], *, coloured: bool) -> str:
    """The same lines in characters, as wide as the terminal allows (at most 100 columns)."""
    from plotext import figure, marker

    end = _last_label(milestones, runs)
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(min(100, shutil.get_terminal_size((100, 24)).columns), 20)
    for module, (symbol, colour) in SYMBOLS.items():
        xs, ys = _staircase(*_steps(milestones, module, end))
        line = figure.signal(xs, ys, marker=marker(symbol, colour)).lines()
        figure.draw(line.label(f"{module}: {ys[0]:.0f} to {ys[-1]:.0f} %"))
    figure.ruler("x").lim(0, max(end, 1))
    figure.ruler("x").ticks(list(range(0, max(end, 1) + 1, 100)))
    figure.ruler("y").lim(0, 100)
    figure.legend(True, 40, 9)
    figure.label("decided labels", "x")
    figure.label("right, %", "y")
    return str(figure.build().string(colorless=not coloured))


def _last_label(milestones: Sequence[Milestone], runs: Sequence[EndedRun]) -> int:
    return max([stone.feedback for stone in milestones] + [run.feedback for run in runs])


def _steps(milestones: Sequence[Milestone], module: str, end: int) -> tuple[list[int], list[float]]:
    """Labels and percentages; the last accuracy goes on to `end`."""
    xs = [stone.feedback for stone in milestones]
    ys = [100 * stone.measured.accuracy(module) for stone in milestones]
    return [*xs, end], [*ys, ys[-1]]


def _staircase(xs: list[int], ys: list[float]) -> tuple[list[int], list[float]]:
    corners: list[tuple[int, float]] = []
    for i, x in enumerate(xs):
        if i:
            corners.append((x, ys[i - 1]))
        corners.append((x, ys[i]))
    return [x for x, _ in corners], [y for _, y in corners]
