"""The operating curve of the whole gate, by simulation: writes the tables of docs/gate.md and docs/gate.png.

    python -m bench.gate_simulation [--trials N] [--print] [--classes]

Seeded; under three minutes on one core.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import gate_classes
from bench.gate_ratchet import Setting, live_through
from bench.gate_trials import POLICY, World, check_against_judge, conclude, draw

DOCS = Path(__file__).parents[1] / "docs"
SEED = 20

SIZES = (100, 200, 500, 1000, 2000, 5000)
DIFFERENCES = (-0.05, -0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.05)
DISCORDANCES = (0.05, 0.1, 0.2, 0.3)
#: Confirmed answers and reported mistakes that the champion reads right.
EMPTY, FILLED = (0, 0), (100, 50)


# --- tables --------------------------------------------------------------------------------------
Rates = dict[World, tuple[float, float]]


def measure(world: World, trials: int) -> tuple[float, float]:
    """Shares passed and rejected. Each cell has its own stream, so adding one changes no other."""
    key = [round(1e4 * abs(x)) for x in (world.difference, world.discordance)] + [world.kept, world.n]
    passed, rejected = conclude(
        draw(world, trials, np.random.default_rng([SEED, world.difference < 0, *key]))
    )
    return float(passed.mean()), float(rejected.mean())


def percent(share: float) -> str:
    """Rounded, but never to a 0 or 100 that was not seen."""
    if share in {0.0, 1.0}:
        return f"{100 * share:.0f}"
    if share < 0.0995:
        return f"{100 * share:.1f}" if share >= 0.0005 else "<0.1"
    return f"{100 * share:.0f}" if share < 0.9945 else f"{min(100 * share, 99.9):.1f}"


def sign(difference: float) -> str:
    return f"{100 * difference:+.0f}" if difference else "0"


def write_curves(biased: tuple[int, int], trials: int) -> tuple[list[str], Rates]:
    lines: list[str] = []
    rates: Rates = {}
    for discordance in DISCORDANCES:
        lines += [
            f"**Discordance {discordance:g}**: they answer differently on {discordance:.0%} of the images.",
            "",
            "| true difference, points | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |",
            "|--:|" + "--:|" * len(SIZES),
        ]
        for difference in DIFFERENCES:
            worlds = [World(n, difference, discordance, *biased) for n in SIZES]
            if worlds[0].possible:
                rates |= {world: measure(world, trials) for world in worlds}
                cells = [f"{percent(rates[w][0])} ({percent(rates[w][1])})" for w in worlds]
                lines.append(f"| {sign(difference)} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines, rates


#: The sentences of the design: name, true difference, sizes, whether a share passed is as it should be.
CLAIMS: list[tuple[str, float, tuple[int, ...], Callable[[float], bool]]] = [
    ("worse by 2 points (the margin): at most 1 in 10, at every n above", -0.02, SIZES, lambda p: p <= 0.105),
    ("worse by 5 points: at most 1 in 1,000, at n = 500", -0.05, (500,), lambda p: p <= 0.001),
    ("better by 3 points: at least 9 in 10, at n = 1,000", 0.03, (1000,), lambda p: p >= 0.9),
]


def write_claims(trials: int) -> list[str]:
    """Each claim at every discordance, so that the table says where it fails."""
    lines = [
        "| passes should be | biased sets | " + " | ".join(f"discordance {d:g}" for d in DISCORDANCES) + " |",
        "|---|---|" + "---|" * len(DISCORDANCES),
    ]
    for name, difference, sizes, holds in CLAIMS:
        for biased in (EMPTY, FILLED):
            cells = []
            for discordance in DISCORDANCES:
                worlds = [World(n, difference, discordance, *biased) for n in sizes]
                found = [measure(world, trials)[0] for world in worlds]
                shown = " to ".join(dict.fromkeys(percent(x) for x in (min(found), max(found))))
                cells.append(f"{shown} %, {'holds' if all(map(holds, found)) else '**fails**'}")
            lines.append(
                f"| {name} | {'filled' if biased == FILLED else 'empty'} | " + " | ".join(cells) + " |"
            )
    return [*lines, ""]


def write_biased(trials: int) -> list[str]:
    sets = ((0, 0), (0, 50), (100, 0), (100, 50), (300, 50), (1000, 50))
    lines = [
        "| discordance | " + " | ".join(f"{k:,} confirmed, {r} reported" for k, r in sets) + " |",
        "|--:|" + "--:|" * len(sets),
    ]
    for discordance in DISCORDANCES:
        cells = [percent(measure(World(1000, 0.03, discordance, *given), trials)[0]) for given in sets]
        lines.append(f"| {discordance:g} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def write_ratchet(lives: int = 250, rounds: int = 30) -> list[str]:
    lines = [
        "| holdout of 500 | asked | accepted | true loss, mean | lost more than 2 points | more than 4 |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for renewed, named in ((0.0, "never renewed"), (1 / 20, "1 in 20 new each round"), (1.0, "all new")):
        for anchored, asked in ((False, "champion alone"), (True, "champion and anchor")):
            rng = np.random.default_rng([SEED, round(100 * renewed)])
            outcome = live_through(Setting(500, renewed, anchored), rounds=rounds, lives=lives, rng=rng)
            two, four = (percent(float((outcome.lost > limit).mean())) for limit in (0.02, 0.04))
            lines.append(
                f"| {named} | {asked} | {percent(outcome.accepted)} % | "
                f"{100 * outcome.lost.mean():.1f} points | {two} % | {four} % |"
            )
    return [*lines, ""]


def write_false_vetoes(trials: int) -> list[str]:
    lines = [
        "| discordance | anchors | " + " | ".join(f"n = {n:,}" for n in gate_classes.SIZES) + " |",
        "|--:|--:|" + "--:|" * len(gate_classes.SIZES),
    ]
    for discordance in gate_classes.DISCORDANCES:
        for anchors in gate_classes.ANCHORS:
            cells = []
            for n in gate_classes.SIZES:
                rng = np.random.default_rng([SEED, n, anchors, round(100 * discordance)])
                cells.append(percent(gate_classes.strike_wrongly(n, discordance, anchors, trials, rng)))
            lines.append(f"| {discordance:g} | {anchors} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def write_class_power(trials: int, discordance: float = 0.3) -> list[str]:
    sizes = gate_classes.CLASS_SIZES
    lines = [
        "| lost against an anchor, points | anchors | " + " | ".join(f"{n} images" for n in sizes) + " |",
        "|--:|--:|" + "--:|" * len(sizes),
    ]
    for loss in gate_classes.LOSSES:
        for anchors in (1, 5):
            cells = []
            for n in sizes:
                rng = np.random.default_rng([SEED, n, anchors, round(100 * loss)])
                found = gate_classes.strike_rightly(n, loss, discordance, anchors, trials, rng)
                cells.append(percent(found))
            lines.append(f"| {100 * loss:.0f} | {anchors} | " + " | ".join(cells) + " |")
    return [*lines, ""]


# --- the page ------------------------------------------------------------------------------------
def write_page(sections: dict[str, list[str]]) -> None:
    """Put each section between its markers in docs/gate.md."""
    page = DOCS / "gate.md"
    text = page.read_text(encoding="utf-8")
    for name, lines in sections.items():
        begin, end = f"<!-- simulated: {name} -->\n", f"<!-- end: {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def draw_picture(rates: Rates) -> bool:
    """One panel for each discordance, without the biased sets above and with them below."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    size = {"figsize": (12.5, 6.4), "layout": "constrained"}
    figure, panels = plt.subplots(2, len(DISCORDANCES), sharex=True, sharey=True, **size)
    colours = plt.colormaps["viridis"](np.linspace(0.9, 0, len(SIZES)))
    for row, biased, named in zip(panels, (EMPTY, FILLED), ("empty", "filled"), strict=True):
        for panel, discordance in zip(row, DISCORDANCES, strict=True):
            for n, colour in zip(SIZES, colours, strict=True):
                worlds = [World(n, difference, discordance, *biased) for difference in DIFFERENCES]
                known = [(100 * w.difference, 100 * rates[w][0]) for w in worlds if w in rates]
                panel.plot(*zip(*known, strict=True), color=colour, marker="o", ms=3, label=f"{n:,}")
            panel.axvline(-100 * POLICY.margin, color="grey", lw=0.8, ls=":")
            panel.set_title(f"discordance {discordance:g}, biased sets {named}", fontsize=9)
            panel.grid(alpha=0.25)
        row[0].set_ylabel("passes, %")
    for panel in panels[-1]:
        panel.set_xlabel("true difference, points")
    panels[0][0].legend(title="holdout images", fontsize=7, title_fontsize=7)
    figure.savefig(DOCS / "gate.png", dpi=100)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20_000, help="of each cell (default 20000)")
    parser.add_argument("--classes", action="store_true", help="only the tables of classes against anchors")
    parser.add_argument("--print", action="store_true", help="print the tables and write nothing")
    options = parser.parse_args()
    classes = {
        "false vetoes": write_false_vetoes(options.trials),
        "class power": write_class_power(options.trials),
    }
    if options.classes:
        write_page(classes)
        return
    compared = check_against_judge(np.random.default_rng(SEED))
    print(f"{compared} verdicts agree with backtalk.gate.judge", file=sys.stderr)
    without, rates = write_curves(EMPTY, options.trials)
    filled, more = write_curves(FILLED, options.trials)
    sections = classes | {
        "claims": write_claims(5 * options.trials),
        "without": without,
        "filled": filled,
        "biased": write_biased(options.trials),
        "ratchet": write_ratchet(),
    }
    if options.print:
        print("\n".join(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items()))
        return
    write_page(sections)
    if not draw_picture(rates | more):
        print("matplotlib is not there: docs/gate.png stays as it is", file=sys.stderr)


if __name__ == "__main__":
    main()
